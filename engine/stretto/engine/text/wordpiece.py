"""A WordPiece tokenizer as BERT has it: from a vocabulary of pieces, as vocab.txt and GGUF files hold it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from stretto.engine.checkpoint.documents import read_text
from stretto.engine.errors import CheckpointError
from stretto.engine.text.special_tokens import named_in_config

MAX_WORD_CHARACTERS = 100  # longer words are unknown, as in the original
DEFAULTS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def read_vocab_txt(path: Path, tokenizer_config: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    """A piece a line; tokenizer_config.json says how words are written and what the special tokens are."""
    lines = read_text(path, where).replace("\r\n", "\n").removesuffix("\n").split("\n")
    named = named_in_config(tokenizer_config, where)
    special = {role: named[role].content if role in named else default for role, default in DEFAULTS.items()}
    normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(tokenizer_config, "tokenize_chinese_chars", True, where) is True,
        strip_accents=_flag(tokenizer_config, "strip_accents", None, where),
        lowercase=_flag(tokenizer_config, "do_lower_case", True, where) is True,
    )
    return wordpiece(lines, special, normalizer, where)


def wordpiece(
    pieces: list[str], special: Mapping[str, str], normalizer: normalizers.Normalizer, where: str
) -> tokenizers.Tokenizer:
    """`pieces` by id; `special` by role, of which the vocabulary must hold cls_token, sep_token and unk_token."""
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    if len(vocab) != len(pieces):
        twice = next(piece for token_id, piece in enumerate(pieces) if vocab[piece] != token_id)
        raise CheckpointError(f"{where} holds the piece {twice[:100]!r} twice; each id needs a piece of its own.")
    start, end, unknown = special["cls_token"], special["sep_token"], special["unk_token"]
    for token in (start, end, unknown):
        if token not in vocab:
            raise CheckpointError(f"{where} does not hold {token!r}, which the tokenizer needs.")
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=MAX_WORD_CHARACTERS)
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.post_processor = TemplateProcessing(
        single=[start, "$A", end],
        pair=[start, "$A", end, "$B:1", f"{end}:1"],
        special_tokens=[(start, vocab[start]), (end, vocab[end])],
    )
    tokenizer.add_special_tokens([token for token in special.values() if token in vocab])
    return tokenizer


def _flag(config: Mapping[str, Any], key: str, default: bool | None, where: str) -> bool | None:
    value = config.get(key, default)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{where}: {key} of tokenizer_config.json is {value!r}, not true, false or null.")
    return value
