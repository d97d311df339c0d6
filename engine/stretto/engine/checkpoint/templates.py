"""The chat templates of a checkpoint, by name; "" is the default. No torch, and nothing is rendered here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stretto.engine.checkpoint.documents import present, read_optional_object, read_text
from stretto.engine.errors import CheckpointError

GGUF_KEY = "tokenizer.chat_template"


def read_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """From the places that Hugging Face tools write to; a file of its own wins over tokenizer_config.json."""
    where = f"{folder.name}/tokenizer_config.json"
    found = _listed(tokenizer_config.get("chat_template"), where)
    where = f"{folder.name}/chat_template.json"
    found |= _listed(read_optional_object(folder / "chat_template.json", where).get("chat_template"), where)
    where = f"{folder.name}/chat_template.jinja"
    if present(folder / "chat_template.jinja", where):
        found[""] = read_text(folder / "chat_template.jinja", where)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = read_text(path, f"{folder.name}/additional_chat_templates/{path.name}")
    return found


def gguf_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """From `tokenizer.chat_template` and `tokenizer.chat_template.NAME`."""
    return {
        key.removeprefix(GGUF_KEY).removeprefix("."): text
        for key, text in metadata.items()
        if (key == GGUF_KEY or key.startswith(GGUF_KEY + ".")) and isinstance(text, str)
    }


def _listed(said: Any, where: str) -> dict[str, str]:
    """A template, or a list of named ones of which "default" is the default."""
    if said is None:
        return {}
    if isinstance(said, str):
        return {"": said}
    if isinstance(said, list) and all(_is_named(entry) for entry in said):
        return {"" if entry["name"] == "default" else entry["name"]: entry["template"] for entry in said}
    raise CheckpointError(f"{where}: chat_template should be a text or a list of names and templates.")


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))
