"""Which tokens of a checkpoint have a part to play: those it names (bos_token, ...) and those that end a text."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tokenizers import AddedToken

from stretto.engine.errors import CheckpointError

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
GGUF_KEYS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "cls_token": "tokenizer.ggml.cls_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}
GGUF_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
# Control tokens that end a turn whatever the file calls its eos: files that name only one of two are common.
GGUF_END_TEXTS = frozenset(
    {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>", "</s>"}
    | {"<eos>", "<EOT>"}
)


def named_in_config(tokenizer_config: Mapping[str, Any], where: str) -> dict[str, AddedToken]:
    """The tokens that tokenizer_config.json names by role; each is a string or an object with `content`."""
    found = {}
    for role in ROLES:
        if (value := tokenizer_config.get(role)) is not None:
            found[role] = _added_token(value, f"{where}: {role}")
    return found


def further_in_config(tokenizer_config: Mapping[str, Any], where: str) -> list[AddedToken]:
    """The special tokens of tokenizer_config.json that have no role of their own."""
    found: list[AddedToken] = []
    for key in LISTS:
        values = tokenizer_config.get(key) or ()
        if isinstance(values, Mapping):
            values = list(values.values())
        if not isinstance(values, list | tuple):
            raise CheckpointError(f"{where}: {key} is a {type(values).__name__}; it should be a list of tokens.")
        found += [_added_token(value, f"{where}: {key}") for value in values]
    return found


def named_in_gguf(metadata: Mapping[str, Any], where: str) -> dict[str, str]:
    """The tokens that a GGUF file names by role."""
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    found = {}
    for role, key in GGUF_KEYS.items():
        for token_id in token_ids(metadata.get(key), f"{where}: {key}"):
            if token_id >= len(tokens):
                raise CheckpointError(f"{where}: {key} is {token_id}; the vocabulary has {len(tokens)} tokens.")
            found[role] = str(tokens[token_id])
    return found


def end_ids(
    settings: Iterable[tuple[Mapping[str, Any], str]],
    eos_token: str | None,
    token_id: Callable[[str], int | None],
    where: str,
) -> frozenset[int]:
    """Every id that ends a text: what each of `settings` (with its name) says, and the tokenizer's own."""
    found: set[int] = set()
    for values, name in settings:
        found |= set(token_ids(values.get("eos_token_id"), f"{name}: eos_token_id"))
    if eos_token is not None:
        found.add(known_id(eos_token, token_id, f"{where}: eos_token"))
    return frozenset(found)


def gguf_end_ids(metadata: Mapping[str, Any], control: Mapping[str, int], where: str) -> frozenset[int]:
    """The ids that end a text by a GGUF file's own account, and the control tokens that do by what they are called."""
    found = {token_id for key in GGUF_END_KEYS for token_id in token_ids(metadata.get(key), f"{where}: {key}")}
    return frozenset(found | {token_id for text, token_id in control.items() if text in GGUF_END_TEXTS})


def known_id(token: str, token_id: Callable[[str], int | None], label: str) -> int:
    """The id of a token that has to be in the vocabulary."""
    found = token_id(token)
    if found is None:
        raise CheckpointError(f"{label} is {token!r}, which the vocabulary does not hold.")
    return found


def token_ids(value: Any, label: str) -> tuple[int, ...]:
    """One id, a list of ids, or none at all."""
    values = value if isinstance(value, list | tuple) else () if value is None else (value,)
    for token_id in values:
        if type(token_id) is not int or token_id < 0:
            raise CheckpointError(f"{label} is {value!r}; it should be a token id or a list of them.")
    return tuple(values)


def _added_token(value: Any, label: str) -> AddedToken:
    if isinstance(value, str) and value:
        return AddedToken(value, normalized=False, special=True)
    if isinstance(value, Mapping) and isinstance(value.get("content"), str) and value["content"]:
        flags = {name: bool(value.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        return AddedToken(value["content"], special=True, **flags)
    raise CheckpointError(f"{label} is {str(value)[:100]!r}; it should be a text or an object with its content.")
