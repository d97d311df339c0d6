"""
What a checkpoint is, without its weights: architecture, configuration, tensors, settings, files. No torch.

`open_checkpoint` reads headers only, in milliseconds, and refuses what stretto would not serve as it is meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stretto.engine.checkpoint.configuration import (
    check_layers,
    generation_notes,
    gguf_pooling,
    read_config,
    read_gguf_config,
)
from stretto.engine.checkpoint.documents import present, read_object, read_optional_object
from stretto.engine.checkpoint.gguf import read_gguf
from stretto.engine.checkpoint.names import canonical, from_gguf
from stretto.engine.checkpoint.safetensors_header import read_index, read_safetensors
from stretto.engine.checkpoint.sentence import SentenceSettings, read_modules, read_sentence
from stretto.engine.checkpoint.templates import gguf_templates, read_templates
from stretto.engine.checkpoint.tensor_info import TensorInfo
from stretto.engine.errors import CheckpointError
from stretto.engine.families.registry import Config, Family
from stretto.engine.requests import Task

__all__ = ["Checkpoint", "SentenceSettings", "TensorInfo", "open_checkpoint"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What else makes a checkpoint's version, where it is there.
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "modules.json",
    "config_sentence_transformers.json",
)
SIDE_PATTERNS = ("additional_chat_templates/*.jinja", "sentence_*_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that stretto can load, as its files describe it.

    `folder` is where configuration and tokenizer are: most often `path`, but the module's folder in an older
    sentence-transformers layout, and the file's folder for GGUF. `where` is what messages call the
    configuration. `generation` and `tokenizer_config` are the JSON files ({} without them), `metadata` a GGUF
    file's key-values. `tensors` go by their Hugging Face names; `unused` are those that are known to have no use
    here. `files` make up the version. `notes` are what a person should know.
    """

    path: Path
    folder: Path
    format: Literal["safetensors", "gguf"]
    architecture: str
    family: Family
    config: Config
    raw_config: Mapping[str, Any]
    where: str
    generation: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    unused: tuple[str, ...]
    sentence: SentenceSettings
    chat_templates: Mapping[str, str]
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.family.architectures[self.architecture]

    @property
    def parameter_count(self) -> int:
        return sum(tensor.num_values for tensor in self.tensors.values())

    @property
    def weight_bytes(self) -> int:
        """Of the tensors as they are in the file."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def width(self) -> int:
        """The dimensions of a vector."""
        return self.config.width

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size


def open_checkpoint(path: Path) -> Checkpoint:
    """Read what a directory or a .gguf file says of itself; raises CheckpointError."""
    try:
        return _open(path)
    except OSError as error:  # a folder that may not be listed, a name that is too long
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def _open(path: Path) -> Checkpoint:
    if not path.exists():
        raise CheckpointError(f"{path} does not exist.")
    path = path.resolve() if path.name in ("", "..") else path
    if path.is_file():
        if path.suffix == ".gguf":
            return _open_gguf(path)
        raise CheckpointError(f"{path} is a file; a checkpoint is a directory with a config.json, or a .gguf file.")
    modules = read_modules(path)
    if modules is None and not present(path / "config.json", f"{path.name}/config.json"):
        return _open_gguf(_only_gguf(path))
    return _open_directory(path)


def _open_directory(path: Path) -> Checkpoint:
    modules = read_modules(path)
    folder = path / modules.transformer if modules else path
    where = f"{folder.name}/config.json"
    raw = _read_config_json(folder, where)
    architecture, family, config = read_config(raw, where)
    weights, stored = _stored(folder)
    check_layers(config, len(stored), where)
    tensors, unused, notes = canonical(stored, family.weights(config), folder.name)
    tokenizer_config = read_optional_object(folder / "tokenizer_config.json", f"{folder.name}/tokenizer_config.json")
    generation = read_optional_object(folder / "generation_config.json", f"{folder.name}/generation_config.json")
    if "auto_map" in raw:
        notes.append(f"{where} names code of its own (auto_map); stretto runs its own {architecture} instead.")
    return Checkpoint(
        path=path,
        folder=folder,
        format="safetensors",
        architecture=architecture,
        family=family,
        config=config,
        raw_config=raw,
        where=where,
        generation=generation,
        tokenizer_config=tokenizer_config,
        metadata={},
        tensors=tensors,
        unused=unused,
        sentence=read_sentence(path, folder, modules, tokenizer_config, width=config.width, context=config.context),
        chat_templates=read_templates(folder, tokenizer_config),
        files=_version_files(path, folder, weights, modules.pooling if modules else None),
        notes=(*notes, *generation_notes(generation, f"{folder.name}/generation_config.json")),
    )


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path, path.name)
    architecture, family, config, raw = read_gguf_config(file, path.name)
    check_layers(config, len(file.tensors), path.name)
    named = from_gguf(file.tensors, family, config, path.name)
    as_torch = replace(family.weights(config), transposed=())  # llama.cpp's converters turn such products
    tensors, unused, notes = canonical(named, as_torch, path.name)
    return Checkpoint(
        path=path,
        folder=path.parent,
        format="gguf",
        architecture=architecture,
        family=family,
        config=config,
        raw_config=raw,
        where=path.name,
        generation={},
        tokenizer_config={},
        metadata=file.metadata,
        tensors=tensors,
        unused=unused,
        sentence=SentenceSettings(
            pooling=gguf_pooling(file.metadata, path.name),
            normalize=None,
            max_tokens=None,
            prompts={},
            default_prompt=None,
        ),
        chat_templates=gguf_templates(file.metadata),
        files=(path,),
        notes=tuple(notes),
    )


def _only_gguf(path: Path) -> Path:
    """The one .gguf file of a directory without config.json; anything else is said as it is."""
    names = sorted(entry.name for entry in path.iterdir())
    files = [name for name in names if name.endswith(".gguf")]
    if len(files) == 1 and present(path / files[0], f"{path.name}/{files[0]}"):
        return path / files[0]
    if files:
        raise CheckpointError(f"{path} holds {len(files)} .gguf files; name one of them: {', '.join(files)}.")
    if not names:
        raise CheckpointError(f"{path} is empty; a checkpoint is a directory with a config.json, or a .gguf file.")
    _refuse_pickles(path, names)
    raise CheckpointError(f"{path} has no config.json; it holds {_some(names)}.")


def _read_config_json(folder: Path, where: str) -> dict[str, Any]:
    if not present(folder / "config.json", where):
        held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        raise CheckpointError(f"{folder} has no config.json; it holds {_some(held)}.")
    return read_object(folder / "config.json", where)


def _stored(folder: Path) -> tuple[list[Path], dict[str, TensorInfo]]:
    """The files that hold the weights (with their index), and the tensors under the names they have there."""
    if present(folder / WEIGHTS, f"{folder.name}/{WEIGHTS}"):
        return [folder / WEIGHTS], read_safetensors(folder / WEIGHTS, f"{folder.name}/{WEIGHTS}")
    if present(folder / INDEX, f"{folder.name}/{INDEX}"):
        tensors = read_index(folder, folder / INDEX, f"{folder.name}/{INDEX}")
        return [folder / INDEX, *sorted({tensor.file for tensor in tensors.values()})], tensors
    names = sorted(entry.name for entry in folder.iterdir())
    _refuse_pickles(folder, names)
    raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {INDEX}; it holds {_some(names)}.")


def _refuse_pickles(folder: Path, names: list[str]) -> None:
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise CheckpointError(
            f"{folder} holds only {pickles[0]}, a pickle: stretto does not load pickles, they can run code.\n"
            "Convert it once, offline, where you trust it, with transformers: "
            f'AutoModel.from_pretrained("{folder}").save_pretrained("{folder}-safetensors")'
        )


def _some(names: list[str]) -> str:
    return (", ".join(names[:8]) or "nothing") + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _version_files(path: Path, folder: Path, weights: list[Path], pooling: str | None) -> tuple[Path, ...]:
    files = set(weights)
    for place in (path, folder):
        files |= {place / name for name in SIDE_FILES}
        files |= {file for pattern in SIDE_PATTERNS for file in place.glob(pattern)}
    if pooling is not None:
        files.add(path / pooling / "config.json")
    return tuple(sorted(file for file in files if file.is_file()))
