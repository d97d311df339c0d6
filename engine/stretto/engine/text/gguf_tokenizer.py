"""A tokenizer out of a GGUF file's key-values: byte-level BPE (gpt2), sentencepiece BPE (llama), WordPiece (bert)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from stretto.engine.errors import CheckpointError
from stretto.engine.text.special_tokens import named_in_gguf
from stretto.engine.text.wordpiece import DEFAULTS, wordpiece

PREFIX = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # tokenizer.ggml.token_type
SPACE = "\u2581"  # what sentencepiece writes for a blank

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = rf"{WORDS}|\p{{N}}{{1,3}}|{REST}"
QWEN2_PATTERN = rf"{WORDS}|\p{{N}}|{REST}"
LLAMA3 = ("llama-bpe", "llama3")
GPT2 = ("gpt-2", "default")
PRE_TOKENIZERS = (*GPT2, "smollm", *LLAMA3, "qwen2")


def read_gguf_tokenizer(metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    """The tokenizer; raises CheckpointError with the key that is missing, wrong or not known."""
    kind = _value(metadata, "model", str, where)
    readers = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe, "bert": _wordpiece}
    if kind not in readers:
        raise CheckpointError(f"{where}: {PREFIX}model is {kind!r}; stretto reads {', '.join(readers)}.")
    try:
        return readers[kind](_vocabulary(metadata, where), metadata, where)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises nothing more exact
        raise CheckpointError(f"{where}: its tokenizer cannot be built: {error}.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vocabulary:
    tokens: list[str]
    kinds: list[int]
    ids: Mapping[str, int]


def _vocabulary(metadata: Mapping[str, Any], where: str) -> _Vocabulary:
    tokens, kinds = _list(metadata, "tokens", str, where), _list(metadata, "token_type", int, where)
    _same_length("token_type", len(kinds), len(tokens), where)
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = next(token for token_id, token in enumerate(tokens) if ids[token] != token_id)
        raise CheckpointError(f"{where}: {PREFIX}tokens holds {twice[:100]!r} twice; each id needs a token of its own.")
    return _Vocabulary(tokens=tokens, kinds=kinds, ids=ids)


def _byte_level_bpe(vocabulary: _Vocabulary, metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    flavour = _value(metadata, "pre", str, where)
    if flavour not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{where}: {PREFIX}pre is {flavour!r}, a way of splitting text that stretto does not have. "
            f"It has: {', '.join(PRE_TOKENIZERS)}."
        )
    merges = [_pair(merge, where) for merge in _list(metadata, "merges", str, where)]
    model = models.BPE(dict(vocabulary.ids), merges, ignore_merges=flavour in LLAMA3)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(flavour)
    if flavour == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, vocabulary)
    _wrap(tokenizer, vocabulary, metadata, bos=flavour in LLAMA3, where=where)
    return tokenizer


def _pre_tokenizer(flavour: str) -> pre_tokenizers.PreTokenizer:
    if flavour in GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if flavour == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN if flavour in LLAMA3 else QWEN2_PATTERN), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentencepiece_bpe(vocabulary: _Vocabulary, metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    scores = _list(metadata, "scores", float, where)
    _same_length("scores", len(scores), len(vocabulary.tokens), where)
    unknown = _optional(metadata, "unknown_token_id", int, 0, where)
    model = models.BPE(
        dict(vocabulary.ids),
        _merges_by_score(vocabulary, scores),
        unk_token=_token(vocabulary, unknown, "unknown_token_id", where),
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = tokenizers.Tokenizer(model)
    prefix = _optional(metadata, "add_space_prefix", bool, True, where)
    blanks = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), blanks]) if prefix else blanks
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    _add_tokens(tokenizer, vocabulary)
    _wrap(tokenizer, vocabulary, metadata, bos=True, where=where)
    return tokenizer


def _merges_by_score(vocabulary: _Vocabulary, scores: list[float]) -> list[tuple[str, str]]:
    """Sentencepiece joins the pair whose whole has the best score; as merges: every such pair, best whole first."""
    parts = {token for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if kind == NORMAL}
    merges = []
    for piece in parts:
        token_id = vocabulary.ids[piece]
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in parts and right in parts:
                order = (-scores[token_id], token_id, vocabulary.ids[left], vocabulary.ids[right])
                merges.append((order, (left, right)))
    return [pair for _, pair in sorted(merges)]


def _wordpiece(vocabulary: _Vocabulary, metadata: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    """The file writes a word's first piece with a blank before it, the others bare; WordPiece has piece and ##piece."""
    pieces = [
        token if kind == CONTROL or (token[:1] == "[" and token[-1:] == "]" and len(token) > 1)
        else token.removeprefix(SPACE) if token.startswith(SPACE)
        else f"##{token}"
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    ]  # fmt: skip
    special = DEFAULTS | {role: token for role, token in named_in_gguf(metadata, where).items() if role in DEFAULTS}
    for key in ("add_bos_token", "add_eos_token"):
        if not _optional(metadata, key, bool, True, where):
            raise CheckpointError(f"{where}: {PREFIX}{key} is false; stretto wraps every BERT text in two tokens.")
    capitals = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    return wordpiece(pieces, special, normalizers.BertNormalizer(lowercase=not capitals), where)


def _add_tokens(tokenizer: tokenizers.Tokenizer, vocabulary: _Vocabulary) -> None:
    """Control tokens are special; user-defined ones are found in any text, and are text."""
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind == CONTROL)
            for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED) and token
        ]
    )


def _wrap(
    tokenizer: tokenizers.Tokenizer, vocabulary: _Vocabulary, metadata: Mapping[str, Any], *, bos: bool, where: str
) -> None:
    """Put around a text the special tokens that the file asks for; `bos` holds where the file does not say."""
    wanted = (
        ("bos_token_id", _optional(metadata, "add_bos_token", bool, bos, where)),
        ("eos_token_id", _optional(metadata, "add_eos_token", bool, False, where)),
    )
    before, after = [
        [_token(vocabulary, _value(metadata, key, int, where), key, where)] if add else [] for key, add in wanted
    ]
    if before or after:
        tokenizer.post_processor = TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *_second(before), "$B:1", *_second(after)],
            special_tokens=[(token, vocabulary.ids[token]) for token in dict.fromkeys([*before, *after])],
        )


def _second(tokens: list[str]) -> list[str]:
    """As the template of a pair has the tokens around its second text."""
    return [f"{token}:1" for token in tokens]


def _pair(merge: str, where: str) -> tuple[str, str]:
    left, blank, right = merge.partition(" ")
    if not (left and blank and right) or " " in right:
        raise CheckpointError(f"{where}: {PREFIX}merges holds {merge[:100]!r}; a merge is two tokens and a blank.")
    return left, right


def _token(vocabulary: _Vocabulary, token_id: int, key: str, where: str) -> str:
    if not 0 <= token_id < len(vocabulary.tokens):
        count = len(vocabulary.tokens)
        raise CheckpointError(f"{where}: {PREFIX}{key} is {token_id}; the vocabulary has {count} tokens.")
    return vocabulary.tokens[token_id]


def _value(metadata: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if PREFIX + key not in metadata:
        raise CheckpointError(f"{where} has no {PREFIX}{key}, which its tokenizer needs.")
    return _optional(metadata, key, kind, None, where)


def _optional(metadata: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    value = metadata.get(PREFIX + key, default)
    if type(value) is not kind:
        raise CheckpointError(f"{where}: {PREFIX}{key} is {str(value)[:100]!r}; it should be a {kind.__name__}.")
    return value


def _list(metadata: Mapping[str, Any], key: str, kind: type, where: str) -> list[Any]:
    values = _value(metadata, key, list, where)
    wrong = next((value for value in values if type(value) is not kind), None)
    if wrong is not None:
        raise CheckpointError(f"{where}: {PREFIX}{key} holds {str(wrong)[:100]!r}; each should be a {kind.__name__}.")
    return list(values)


def _same_length(key: str, found: int, wanted: int, where: str) -> None:
    if found != wanted:
        raise CheckpointError(f"{where}: {PREFIX}{key} has {found} entries; {PREFIX}tokens has {wanted}.")
