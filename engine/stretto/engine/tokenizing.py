"""
Texts to ids and back for those who want no more than that, and the files that do it elsewhere.

All of it runs in threads, an input at a time: a call keeps one core from the engine, not all of them. No torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import tokenizers

from stretto.engine.bounds import check_ids
from stretto.engine.errors import CheckpointError, InvalidRequest, ReplyTooLarge
from stretto.engine.requests import Chat, Prompt, TextPrompt, TokenPrompt
from stretto.engine.served import Served
from stretto.engine.text.tokenizer import Tokenizer

MAX_LISTED_TOKENS = 1_000_000  # each takes some 200 bytes until it is sent
IDS_AT_A_TIME = 65_536  # of a text that may turn out too long

TOKENIZER_JSON, VOCAB_TXT = "tokenizer.json", "vocab.txt"
FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.json", "chat_template.jinja")
MORE_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeCall:
    """Inputs, and what to tell of their tokens beside the number. Offsets can be told of texts only."""

    model: str
    inputs: tuple[Prompt, ...]
    with_ids: bool = True
    with_pieces: bool = False
    with_offsets: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """The tokens of one input: their number, and as much of them as was asked for."""

    count: int
    ids: Sequence[int] = ()
    pieces: Sequence[bytes] = ()
    offsets: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetokenizeCall:
    """Ids to be read as texts, of at most `max_bytes` in all."""

    model: str
    inputs: tuple[tuple[int, ...], ...]
    skip_special_tokens: bool
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """One file of a tokenizer: where it lies, or what is in it where there is no such file."""

    name: str
    content: Path | bytes

    def open(self) -> BinaryIO:
        if isinstance(self.content, bytes):
            return BytesIO(self.content)
        try:
            return self.content.open("rb")
        except OSError as error:
            raise CheckpointError(f"{self.name} cannot be read: {error.strerror or error}.") from error


def tokenized(served: Served, call: TokenizeCall) -> list[Tokenized]:
    """One result an input; raises for the first that cannot be had, by its place."""
    results: list[Tokenized] = []
    num_tokens = 0
    for place, given in enumerate(call.inputs):
        path = "chat" if isinstance(given, Chat) else f"inputs[{place}]"
        encoded = _encoded(served, given, path)
        num_tokens += len(encoded)
        if not call.with_ids:
            results.append(Tokenized(count=len(encoded)))
            continue
        if num_tokens > MAX_LISTED_TOKENS:
            raise ReplyTooLarge(
                f"There are {num_tokens} tokens up to {path}; one reply lists at most {MAX_LISTED_TOKENS}. "
                "Send several requests, or ask for count_only.",
                field=path,
                metadata={"tokens": str(num_tokens), "max_tokens": str(MAX_LISTED_TOKENS)},
            )
        ids = encoded.ids if isinstance(encoded, tokenizers.Encoding) else encoded
        results.append(
            Tokenized(
                count=len(ids),
                ids=ids,
                pieces=[served.tokenizer.piece(token) for token in ids] if call.with_pieces else (),
                offsets=_offsets(encoded) if call.with_offsets else (),
            )
        )
    return results


def detokenized(served: Served, call: DetokenizeCall) -> list[str]:
    """The text of each list of ids; raises before more is made than may be sent."""
    texts: list[str] = []
    num_bytes = 0
    for place, ids in enumerate(call.inputs):
        check_ids(ids, served.tokenizer.size, f"inputs[{place}]")
        parts: list[str] = []
        for part in _read(served.tokenizer, ids, skip_special_tokens=call.skip_special_tokens):
            num_bytes += len(part.encode())
            if num_bytes > call.max_bytes:
                raise ReplyTooLarge(
                    f"The texts have more than {call.max_bytes} bytes, the limit of a reply, within inputs[{place}]. "
                    "Send several requests.",
                    field=f"inputs[{place}]",
                    metadata={"max_bytes": str(call.max_bytes)},
                )
            parts.append(part)
        texts.append("".join(parts))
    return texts


def tokenizer_files(served: Served) -> list[TokenizerFile]:
    """The files that the model's texts are read by, of those that make up its version.

    A GGUF file has its tokenizer inside: what was built from it is sent as tokenizer.json.
    """
    checkpoint = served.checkpoint
    if checkpoint.format == "gguf":
        return [TokenizerFile(name=TOKENIZER_JSON, content=served.tokenizer.to_json().encode())]
    folder = checkpoint.folder
    vocabulary = TOKENIZER_JSON if folder / TOKENIZER_JSON in checkpoint.files else VOCAB_TXT
    wanted = {folder / name for name in (vocabulary, *FILES)}
    return [
        TokenizerFile(name=file.relative_to(folder).as_posix(), content=file)
        for file in checkpoint.files
        if file in wanted or file.parent == folder / MORE_TEMPLATES
    ]


def _encoded(served: Served, given: Prompt, path: str) -> tokenizers.Encoding | list[int]:
    tokenizer = served.tokenizer
    match given:
        case TextPrompt():
            if given.pair is not None and tokenizer.pair is None:
                field = f"{path}.text_pair"
                raise InvalidRequest(f"{field} is set; {served.spec.name} does not read pairs of texts.", field=field)
            return tokenizer.encoding(
                given.text,
                given.pair,
                add_special_tokens=given.add_special_tokens,
                parse_special_tokens=given.parse_special_tokens,
            )
        case TokenPrompt():
            check_ids(given.ids, tokenizer.size, f"{path}.token_ids")
            return list(given.ids)
        case Chat():
            return served.templates.encode(given, tokenizer)


def _offsets(encoded: tokenizers.Encoding | list[int]) -> Sequence[tuple[int, int]]:
    assert isinstance(encoded, tokenizers.Encoding), "offsets point into a text"
    offsets: list[tuple[int, int]] = encoded.offsets
    return offsets


def _read(tokenizer: Tokenizer, ids: tuple[int, ...], *, skip_special_tokens: bool) -> Iterator[str]:
    """The text in pieces, as a stream has it; in one where only the whole of it can be read (WordPiece)."""
    if not tokenizer.generates:
        yield tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return
    detokenizer = tokenizer.detokenizer(skip_special_tokens=skip_special_tokens)
    for start in range(0, len(ids), IDS_AT_A_TIME):
        yield detokenizer.push(ids[start : start + IDS_AT_A_TIME])
    yield detokenizer.finish()
