"""
A model from the Hugging Face hub, by the hub's own client. No torch.

The client honours HF_HOME, HF_HUB_OFFLINE and HF_TOKEN. Pickles and other formats than ours are not downloaded.
"""

import shutil
from pathlib import Path

from stretto.engine.checkpoint.progress import Progress, growing
from stretto.engine.errors import SourceNotFound

WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]
UNWANTED = ["*.bin", "onnx/*", "openvino/*", "original/*", "*.onnx*"]


def cached_snapshot(repository: str, revision: str | None, progress: Progress) -> Path:
    """The folder of a repository's snapshot in the hub's own cache, brought up to date where the hub answers."""
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise SourceNotFound(f"the hub's client is missing ({error}); install stretto[serve].") from error
    disable_progress_bars()
    home = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    with growing(home, repository, None, progress):
        try:
            return Path(
                snapshot_download(repository, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED)
            )
        except Exception as error:  # the client lets its HTTP library's errors through, and has used several
            raise _explained(repository, revision, error) from error


def fetch_hub(repository: str, target: Path, progress: Progress) -> str:
    """Fill the folder `target` with a repository's files and return the commit they are of."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise SourceNotFound(f"the hub's client is missing ({error}); install stretto[serve].") from error
    disable_progress_bars()
    target.mkdir()
    try:
        commit = HfApi().model_info(repository, timeout=10).sha or "main"
        with growing(target, repository, None, progress):
            snapshot_download(
                repository,
                revision=commit,
                local_dir=target,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
    except Exception as error:  # as above
        raise _explained(repository, None, error) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the client's notes for resuming
    return commit


def _explained(repository: str, revision: str | None, error: Exception) -> SourceNotFound:
    """What happened, in a sentence; the client's own messages are paragraphs."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return SourceNotFound(f"{repository} is gated on the hub: accept its terms there and set HF_TOKEN.")
    if isinstance(error, RevisionNotFoundError):
        return SourceNotFound(f"{repository} has no revision {revision!r} on the hub.")
    if isinstance(error, RepositoryNotFoundError):
        return SourceNotFound(f"the hub has no {repository}, or it is private: set HF_TOKEN.")
    if isinstance(error, OfflineModeIsEnabled):
        return SourceNotFound("HF_HUB_OFFLINE is set.")
    if isinstance(error, LocalEntryNotFoundError):
        return SourceNotFound(f"the hub cannot be reached, and its cache holds no {repository}.")
    return SourceNotFound(f"the hub does not answer for {repository}: {str(error)[:200] or type(error).__name__}.")
