"""The JSON files of a checkpoint, bounded in size; a wrong one is refused with its name and why. No torch."""

import json
from pathlib import Path
from typing import Any

from stretto.engine.errors import CheckpointError

MAX_JSON_BYTES = 64 * 1024 * 1024


def present(path: Path, where: str) -> bool:
    """Whether this file is there. What has its name and is no file is refused: a broken link is no absent file."""
    if path.is_file():
        return True
    if path.is_symlink() or path.exists():
        kind = "folder" if path.is_dir() else "link to nothing" if path.is_symlink() else "device"
        raise CheckpointError(f"{where} is a {kind}; it should be a file.")
    return False


def read_text(path: Path, where: str) -> str:
    """The text of a small file; `where` is what error messages call it."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(f"{where} has {size:,} bytes; the limit is {MAX_JSON_BYTES:,}.")
        with path.open("rb") as file:
            return file.read(MAX_JSON_BYTES).decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 text: {error}.") from error


def parse_json(text: str, where: str) -> Any:
    """JSON as Python values; raises CheckpointError with the file and the reason."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON that stretto can read: {error}.") from error


def read_object(path: Path, where: str) -> dict[str, Any]:
    """A JSON file that holds an object."""
    value = parse_json(read_text(path, where), where)
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds a {type(value).__name__}; it should hold a JSON object.")
    return value


def read_optional_object(path: Path, where: str) -> dict[str, Any]:
    """A JSON file that holds an object, or nothing where there is no such file."""
    return read_object(path, where) if present(path, where) else {}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that says one thing twice: readers differ in which they believe."""
    value: dict[str, Any] = {}
    for name, said in pairs:
        if name in value:
            raise ValueError(f"{name[:100]!r} is there twice")
        value[name] = said
    return value
