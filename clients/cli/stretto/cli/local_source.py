"""From what a person calls a model to files that are here already; nothing is fetched."""

import os
from pathlib import Path

from stretto.cli.failure import CommandFailed
from stretto.engine.checkpoint.origin import folder_of, intact
from stretto.engine.checkpoint.progress import Silent
from stretto.engine.checkpoint.sources import EITHER, HUB_ID, cache_folder, catalogue_model, resolve


def local_path(source: str) -> Path:
    """The directory or .gguf file; raises CommandFailed for what would have to be fetched first."""
    cache = cache_folder(os.environ)
    if Path(source).expanduser().exists():
        return Path(source).expanduser()
    if (model := catalogue_model(source)) is not None:
        if not any(intact(folder_of(cache, model, kind), model) for kind in EITHER):
            raise _not_here(source)
        return resolve(source, cache=cache, progress=Silent())
    if (match := HUB_ID.fullmatch(source)) is not None:
        return _snapshot(source, match["id"], match["revision"])
    return resolve(source, cache=cache, progress=Silent())  # refuses it, with what it may have meant


def _snapshot(source: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise _not_here(source) from None


def _not_here(source: str) -> CommandFailed:
    return CommandFailed(
        f"{source} is not on this machine; inspect fetches nothing.", f"Fetch it:  stretto pull {source}"
    )
