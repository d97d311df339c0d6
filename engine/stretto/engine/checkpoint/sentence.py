"""
What sentence-transformers' files say of making vectors: pooling, normalising, lengths and prompts. No torch.

`modules.json` lists a Transformer, a Pooling and perhaps a Normalize; whatever else it lists is refused by
name, because leaving a module out would give other vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stretto.engine.checkpoint.documents import parse_json, present, read_object, read_optional_object, read_text
from stretto.engine.errors import CheckpointError
from stretto.engine.requests import Pooling

# tokenizer_config.json says 10^30 where the tokenizer has no limit.
SANE_TOKENS = 1 << 30
MODES = {
    "cls": Pooling.CLS,
    "mean": Pooling.MEAN,
    "max": Pooling.MAX,
    "lasttoken": Pooling.LAST_TOKEN,
    "weightedmean": Pooling.WEIGHTED_MEAN,
    "mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
}
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
LENGTHS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceSettings:
    """How a checkpoint wants its vectors made; None where it does not say."""

    pooling: Pooling | None
    normalize: bool | None
    max_tokens: int | None
    prompts: Mapping[str, str]
    default_prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The folders of modules.json, relative to it; `pooling` is None where it lists no Pooling."""

    transformer: str
    pooling: str | None
    normalize: bool


def read_modules(folder: Path) -> Modules | None:
    """Read modules.json, or None where there is none."""
    path, where = folder / "modules.json", f"{folder.name}/modules.json"
    if not present(path, where):
        return None
    listed = parse_json(read_text(path, where), where)
    if not isinstance(listed, list) or not all(_is_module(entry) for entry in listed):
        raise CheckpointError(f"{where} should be a list of modules, each with a type and a path.")
    kinds = [str(entry["type"]).rpartition(".")[2] for entry in listed]
    for entry, kind in zip(listed, kinds, strict=True):
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise CheckpointError(
                f"{where} lists the module {entry['type']}, which stretto does not have.\n"
                "It has: Transformer, Pooling, Normalize."
            )
        parts = Path(entry["path"]).parts
        if Path(entry["path"]).is_absolute() or ".." in parts or "\0" in entry["path"]:
            raise CheckpointError(f"{where} puts a module at {entry['path']!r}, outside the checkpoint.")
    if kinds not in (
        ["Transformer"],
        ["Transformer", "Pooling"],
        ["Transformer", "Normalize"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        raise CheckpointError(
            f"{where} lists {', '.join(kinds) or 'nothing'}; "
            "stretto runs a Transformer, a Pooling and a Normalize, in that order."
        )
    paths = dict(zip(kinds, (entry["path"] for entry in listed), strict=True))
    return Modules(transformer=paths["Transformer"], pooling=paths.get("Pooling"), normalize="Normalize" in kinds)


def read_sentence(
    folder: Path,
    inner: Path,
    modules: Modules | None,
    tokenizer_config: Mapping[str, Any],
    *,
    width: int,
    context: int,
) -> SentenceSettings:
    """Everything these files say; `inner` is the Transformer's folder, most often `folder` itself."""
    prompts, default = _prompts(folder)
    pooling = None
    if modules is not None and modules.pooling is not None:
        pooling = _pooling(
            folder / modules.pooling / "config.json", f"{folder.name}/{modules.pooling}/config.json", width
        )
    return SentenceSettings(
        pooling=pooling,
        normalize=None if modules is None else modules.normalize,
        max_tokens=_max_tokens(inner, tokenizer_config, context),
        prompts=prompts,
        default_prompt=default,
    )


def _is_module(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("type", "path"))


def _pooling(path: Path, where: str, width: int) -> Pooling:
    said = read_object(path, where)
    modes = said["pooling_mode"] if "pooling_mode" in said else [mode for flag, mode in FLAGS.items() if said.get(flag)]
    modes = [modes] if isinstance(modes, str) else modes
    strange = sorted(key for key in said if key.startswith("pooling_mode_") and key not in FLAGS and said[key])
    if strange or not isinstance(modes, list) or not all(mode in MODES for mode in map(str, modes)):
        raise CheckpointError(
            f"{where} asks for the pooling {strange or modes}, which stretto does not have.\n"
            f"It has: {', '.join(MODES)}."
        )
    if len(modes) != 1:
        asked = " and ".join(map(str, modes)) or "no pooling mode at all"
        raise CheckpointError(f"{where} asks for {asked}; stretto makes one vector by one mode.")
    if not said.get("include_prompt", True):
        raise CheckpointError(
            f"{where} says include_prompt false: stretto cannot leave the prompt's tokens out of the vector."
        )
    says = said.get("embedding_dimension", said.get("word_embedding_dimension", width))
    if says != width:
        raise CheckpointError(f"{where} says vectors of {says} dimensions; the model makes {width}.")
    return MODES[modes[0]]


def _max_tokens(folder: Path, tokenizer_config: Mapping[str, Any], context: int) -> int | None:
    """The least of the limits that are said, and never above the context; None where nothing is said."""
    limits = [_length(tokenizer_config, "model_max_length", f"{folder.name}/tokenizer_config.json")]
    for name in LENGTHS:
        where = f"{folder.name}/{name}"
        said = read_optional_object(folder / name, where)
        limits.append(_length(said, "max_seq_length", where))
        if said.get("do_lower_case") and not tokenizer_config.get("do_lower_case"):
            raise CheckpointError(
                f"{where} says do_lower_case, and the tokenizer does not: stretto does not change texts."
            )
    sane = [n for n in limits if 0 < n < SANE_TOKENS]
    return min(*sane, context) if sane else None


def _length(said: Mapping[str, Any], key: str, where: str) -> int:
    """A number of tokens, or 0 where nothing is said; 10^30 may be written as a float."""
    value = said.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1 != 0:
        raise CheckpointError(f"{where} says {key} {str(value)[:50]!r}; it should be a number of tokens.")
    return int(value)


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    where = f"{folder.name}/config_sentence_transformers.json"
    said = read_optional_object(folder / "config_sentence_transformers.json", where)
    prompts = said.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{where}: prompts should map names to texts.")
    default = said.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{where}: default_prompt_name is {default!r}; it should be one of the prompts, "
            f"which are: {', '.join(sorted(prompts)) or 'none'}."
        )
    return prompts, default
