"""Text to ids and back for one checkpoint, by the tokenizer that is in it."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from stretto.engine.checkpoint.documents import present
from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.errors import CheckpointError, InvalidRequest
from stretto.engine.text.detokenizer import Detokenizer
from stretto.engine.text.gguf_tokenizer import read_gguf_tokenizer
from stretto.engine.text.pairs import pair_template
from stretto.engine.text.special_tokens import (
    end_ids,
    further_in_config,
    gguf_end_ids,
    known_id,
    named_in_config,
    named_in_gguf,
    token_ids,
)
from stretto.engine.text.token_bytes import byte_spelling
from stretto.engine.text.wordpiece import read_vocab_txt

MAX_TOKENIZER_BYTES = 256 * 1024 * 1024
MAX_WORD_CHARACTERS = 1000  # WordPiece takes time in the square of a word's length: 8,000 characters took a minute


class Tokenizer:
    """Text to ids for one checkpoint. Safe to call from several threads; the batch calls release the GIL.

    `size` is the largest id and one. `head` and `tail` are the special tokens that wrap one text. `special_ids` are the
    control tokens. `unknown_id` is what stands for text that the vocabulary cannot spell, where there is such text.
    `pair` is how two texts are put together, where something stands between them.
    """

    def __init__(self, library: tokenizers.Tokenizer, *, bos_id: int | None, eos_ids: frozenset[int]) -> None:
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self.size = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = library.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.special_texts = frozenset(added[token_id].content for token_id in self.special_ids)
        self.unknown_id = _unknown_id(library)
        self._library = library
        self._lock = threading.Lock()
        self._variants: dict[tuple[bool, bool], tokenizers.Tokenizer] = {}
        self._spelling = byte_spelling(library.decoder)
        self._bytes: dict[int, bytes] = {}
        self.head, self.tail = _wrapping(library)
        self.pair = pair_template(library)

    @property
    def named_ids(self) -> frozenset[int]:
        """The tokens that begin and end texts: the model has to have them all."""
        first = () if self.bos_id is None else (self.bos_id,)
        return frozenset((*first, *self.head, *self.tail, *self.eos_ids))

    @property
    def generates(self) -> bool:
        """Whether a text is its tokens' bytes put together, so that it can be sent as it is made."""
        return self._spelling is not None

    def to_json(self) -> str:
        """A tokenizer.json that makes the same ids."""
        return self._library.to_str()

    def encode(
        self, texts: Sequence[str], *, add_special_tokens: bool, parse_special_tokens: bool = True
    ) -> list[list[int]]:
        """The ids of each text. Without `parse_special_tokens`, a control token in a text is spelt like any word."""
        library = self._library if parse_special_tokens else self._variant(inner=False, literal=True)
        encodings = library.encode_batch_fast(_encodable(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(
        self, texts: Sequence[str], *, add_special_tokens: bool
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """The ids of each text, and of which of its code points each is made."""
        encodings = self._library.encode_batch(_encodable(texts), add_special_tokens=add_special_tokens)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def encoding(
        self, text: str, pair: str | None, *, add_special_tokens: bool, parse_special_tokens: bool
    ) -> tokenizers.Encoding:
        """All that the library knows of one text, or pair of texts, and its tokens."""
        library = self._library if parse_special_tokens else self._variant(inner=False, literal=True)
        texts = _encodable([text] if pair is None else [text, pair])
        given = text if pair is None else tuple(texts)
        [encoding] = library.encode_batch([given], add_special_tokens=add_special_tokens)
        return encoding

    def encode_inner(self, texts: Sequence[str], *, parse_special_tokens: bool = False) -> list[list[int]]:
        """The ids of texts that stand after something else: no blank is put before their first word."""
        library = self._variant(inner=True, literal=not parse_special_tokens)
        encodings = library.encode_batch_fast(_encodable(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of all the ids at once, as the library has it."""
        return self._library.decode(ids, skip_special_tokens=skip_special_tokens)

    def detokenizer(self, *, skip_special_tokens: bool) -> Detokenizer:
        """What turns ids into text as they come.

        It equals `decode`, but for one thing: where the byte tokens of a sentencepiece vocabulary are no UTF-8, the
        library gives up the whole run of them, and this only the bytes that are broken.
        """
        assert self._spelling is not None, "only a vocabulary that generates has a detokenizer"
        hidden = self.special_ids if skip_special_tokens else frozenset[int]()
        return Detokenizer(self.token_bytes, hidden, drop_leading_space=self._spelling[1])

    def token_bytes(self, token_id: int) -> bytes:
        """What this token adds to a text; nothing for an id that the vocabulary does not have."""
        assert self._spelling is not None, "only a vocabulary that generates has bytes for each token"
        found = self._bytes.get(token_id)
        if found is None:
            token = self._library.id_to_token(token_id)
            found = self._bytes[token_id] = b"" if token is None else self._spelling[0](token)
        return found

    def piece(self, token_id: int) -> bytes:
        """What this token is made of: what it adds to a text, or else how the vocabulary writes it ("##ing")."""
        if self.generates:
            return self.token_bytes(token_id)
        token = self._library.id_to_token(token_id)
        return b"" if token is None else token.encode()

    def id_of(self, token: str) -> int | None:
        return self._library.token_to_id(token)

    def _variant(self, *, inner: bool, literal: bool) -> tokenizers.Tokenizer:
        """A further tokenizer, made once: these settings belong to an object that threads share.

        To a `literal` one control tokens are text. An `inner` one does not put the blank that some tokenizers put
        before the first word of all.
        """
        with self._lock:
            if (inner, literal) not in self._variants:
                description = json.loads(self._library.to_str())
                if inner:
                    _drop_first_blank(description.get("pre_tokenizer"))
                library = tokenizers.Tokenizer.from_str(json.dumps(description))
                library.encode_special_tokens = literal
                self._variants[inner, literal] = library
            return self._variants[inner, literal]


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint; raises CheckpointError with the file and what is wrong with it."""
    name = checkpoint.folder.name
    settings = ((checkpoint.generation, f"{name}/generation_config.json"), (checkpoint.raw_config, checkpoint.where))
    if checkpoint.format == "gguf":
        return gguf_tokenizer(checkpoint.metadata, settings, checkpoint.where)
    return folder_tokenizer(checkpoint.folder, checkpoint.tokenizer_config, settings, name)


Settings = tuple[tuple[Mapping[str, Any], str], ...]


def gguf_tokenizer(metadata: Mapping[str, Any], settings: Settings, where: str) -> Tokenizer:
    library = read_gguf_tokenizer(metadata, where)
    control = {token.content: i for i, token in library.get_added_tokens_decoder().items() if token.special}
    ends = end_ids(settings, None, library.token_to_id, where) | gguf_end_ids(metadata, control, where)
    bos = named_in_gguf(metadata, where).get("bos_token")
    return Tokenizer(library, bos_id=None if bos is None else library.token_to_id(bos), eos_ids=ends)


def folder_tokenizer(folder: Path, tokenizer_config: Mapping[str, Any], settings: Settings, where: str) -> Tokenizer:
    label = f"{where}/tokenizer_config.json"
    named = named_in_config(tokenizer_config, label)
    library = _read_library(folder, tokenizer_config, where)
    _check_model(library, where)
    library.no_truncation()
    library.no_padding()
    _mark_special(library, [*named.values(), *further_in_config(tokenizer_config, label)])
    eos = named["eos_token"].content if "eos_token" in named else None
    return Tokenizer(
        library,
        bos_id=_bos_id(library, named, settings, label),
        eos_ids=end_ids(settings, eos, library.token_to_id, label),
    )


def _read_library(folder: Path, tokenizer_config: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    if present(folder / "tokenizer.json", f"{where}/tokenizer.json"):
        return _read_tokenizer_json(folder / "tokenizer.json", f"{where}/tokenizer.json")
    if present(folder / "vocab.txt", f"{where}/vocab.txt"):
        return read_vocab_txt(folder / "vocab.txt", tokenizer_config, f"{where}/vocab.txt")
    raise CheckpointError(f"{where} has no tokenizer: neither tokenizer.json nor vocab.txt is there.")


def _read_tokenizer_json(path: Path, where: str) -> tokenizers.Tokenizer:
    size = path.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"{where} has {size:,} bytes; the limit is {MAX_TOKENIZER_BYTES:,}.")
    try:
        return tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}.") from error
    except Exception as error:  # the library raises nothing more exact
        raise CheckpointError(f"{where} is not a tokenizer that stretto can read: {error}.") from error


def _check_model(library: tokenizers.Tokenizer, where: str) -> None:
    """Refuse a tokenizer that would draw lots, take minutes for one word, or fail at a word it does not know."""
    model = library.model
    if isinstance(model, tokenizers.models.BPE) and model.dropout:
        raise CheckpointError(f"{where}/tokenizer.json: dropout is {model.dropout}; a text must have one tokenisation.")
    if isinstance(model, tokenizers.models.WordPiece) and model.max_input_chars_per_word > MAX_WORD_CHARACTERS:
        raise CheckpointError(
            f"{where}/tokenizer.json: max_input_chars_per_word is {model.max_input_chars_per_word}; "
            f"the limit is {MAX_WORD_CHARACTERS}, because such a word takes minutes."
        )
    unknown = getattr(model, "unk_token", None)
    if unknown is not None and not isinstance(library.decoder, tokenizers.decoders.ByteLevel):  # which never needs it
        known_id(unknown, model.token_to_id, f"{where}/tokenizer.json: unk_token")


def _mark_special(library: tokenizers.Tokenizer, named: list[AddedToken]) -> None:
    """Have the tokens that tokenizer_config.json names found as special, as far as the vocabulary holds them."""
    special = {token.content for token in library.get_added_tokens_decoder().values() if token.special}
    library.add_special_tokens(
        [token for token in named if token.content not in special and library.token_to_id(token.content) is not None]
    )


def _bos_id(
    library: tokenizers.Tokenizer, named: Mapping[str, AddedToken], settings: Settings, where: str
) -> int | None:
    if "bos_token" in named:
        return known_id(named["bos_token"].content, library.token_to_id, f"{where}: bos_token")
    for values, name in settings:
        for token_id in token_ids(values.get("bos_token_id"), f"{name}: bos_token_id"):
            return token_id
    return None


def _unknown_id(library: tokenizers.Tokenizer) -> int | None:
    if isinstance(library.decoder, tokenizers.decoders.ByteLevel):
        return None  # whatever the file names: every byte has a token
    unknown = getattr(library.model, "unk_token", None)  # Unigram has none by name
    return None if unknown is None else library.token_to_id(unknown)


def _wrapping(library: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after a text, seen on one that every vocabulary has some ids for."""
    body = library.encode("a", add_special_tokens=False).ids
    whole = library.encode("a", add_special_tokens=True)
    start = next((at for at, special in enumerate(whole.special_tokens_mask) if not special), len(whole.ids))
    assert whole.ids[start : start + len(body)] == body, "special tokens stand around a text, not in it"
    return tuple(whole.ids[:start]), tuple(whole.ids[start + len(body) :])


def _drop_first_blank(pre_tokenizer: Any) -> None:
    """Change a description so that only a text's own blanks count, as in the middle of one."""
    for step in [pre_tokenizer, *pre_tokenizer.get("pretokenizers", ())] if isinstance(pre_tokenizer, dict) else []:
        if step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "never"


def _encodable(texts: Sequence[str]) -> list[str]:
    """The texts; refuses a lone half of a surrogate pair, which no encoding has."""
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"Text {number} holds U+{ord(text[error.start]):04X} at character {error.start}, "
                "half of a surrogate pair; send whole characters."
            ) from None
    return list(texts)
