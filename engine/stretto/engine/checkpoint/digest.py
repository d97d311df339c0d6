"""The version of a checkpoint: a digest over the contents of its files, the same wherever they lie. No torch."""

import hashlib
import json
from pathlib import Path

from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.errors import CheckpointError


def version_of(checkpoint: Checkpoint) -> str:
    """A digest of the sorted (name, digest of the contents) of all files that make it up, after "sha256:".

    A single file's is that of its contents, whatever it is called. Reads every file once, in pieces, without the
    interpreter lock: a thread may do it beside others.
    """
    if not checkpoint.path.is_dir():
        return "sha256:" + sha256_of(checkpoint.path)
    listed = sorted((file.relative_to(checkpoint.path).as_posix(), sha256_of(file)) for file in checkpoint.files)
    return "sha256:" + hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The digest of a file's contents, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
