"""What each token adds to a text, as bytes: byte-level BPE, sentencepiece styles, and plain words between blanks."""

import json
import re
from collections.abc import Callable

import tokenizers

SPACE = "\u2581"  # what sentencepiece writes for a blank
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_spelling(decoder: tokenizers.decoders.Decoder | None) -> tuple[Callable[[str], bytes], bool] | None:
    """How this decoder turns a token's spelling into bytes, and whether it drops the text's leading blank.

    None where the text is more than its tokens' bytes put together (WordPiece glues and cleans).
    """
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return ByteLevel(), False
    if kinds == []:
        return word_bytes, True
    if kinds == ["Metaspace"] and steps[0]["replacement"] == SPACE:
        return metaspace_bytes, steps[0]["prepend_scheme"] != "never"
    if kinds not in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        return None
    replaces = steps[0].get("pattern") == {"String": SPACE} and steps[0].get("content") == " "
    strip = steps[3] if len(steps) == 4 else {"content": " ", "start": 0, "stop": 0}
    if not replaces or strip["content"] != " " or strip["stop"] != 0 or strip["start"] not in (0, 1):
        return None
    return sentencepiece_bytes, strip["start"] == 1


class ByteLevel:
    """GPT-2's alphabet: each byte is one printable character."""

    def __init__(self) -> None:
        printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        self._byte = {chr(byte): byte for byte in printable}
        self._byte |= {chr(256 + n): byte for n, byte in enumerate(others)}

    def __call__(self, spelling: str) -> bytes:
        """The bytes; an added token with a character outside the alphabet is its own UTF-8, as the decoder has it."""
        try:
            return bytes([self._byte[character] for character in spelling])
        except KeyError:
            return spelling.encode()


def word_bytes(spelling: str) -> bytes:
    """Without a decoder the library puts a blank between any two tokens."""
    return b" " + spelling.encode()


def metaspace_bytes(spelling: str) -> bytes:
    return spelling.replace(SPACE, " ").encode()


def sentencepiece_bytes(spelling: str) -> bytes:
    if match := BYTE_TOKEN.fullmatch(spelling):
        return bytes([int(match[1], 16)])
    return metaspace_bytes(spelling)


def _steps(decoder: tokenizers.decoders.Decoder | None) -> list[dict[str, object]]:
    """The decoder's own description of itself, flattened."""
    if decoder is None:
        return []
    described = json.loads(decoder.__getstate__())
    steps: list[dict[str, object]] = described["decoders"] if described["type"] == "Sequence" else [described]
    return steps
