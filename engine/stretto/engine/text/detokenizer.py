"""Token ids to text as they come: whole characters only, and never a word that has to be taken back."""

import codecs
from collections.abc import Callable, Iterable


class Detokenizer:
    """The text of one candidate, a few ids at a time.

    Bytes are held until they are a character. Bytes that cannot become one are U+FFFD as soon as the next byte
    proves it, or at the end. So the pieces, put together, are the bytes of all tokens read as UTF-8, however they
    were cut. `hidden` ids give nothing. `drop_leading_space` is for vocabularies whose decoder leaves out the blank
    before the first word.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], hidden: frozenset[int], *, drop_leading_space: bool = False
    ) -> None:
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._drop = " " if drop_leading_space else ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """The characters that these ids complete; it may be none."""
        data = b"".join([self._token_bytes(token) for token in ids if token not in self._hidden])
        return self._text(self._decoder.decode(data))

    def finish(self) -> str:
        """What the bytes of a last, broken character come out as."""
        return self._text(self._decoder.decode(b"", True))

    def _text(self, text: str) -> str:
        if not self._drop or not text:
            return text
        self._drop, dropped = "", self._drop
        return text.removeprefix(dropped)
