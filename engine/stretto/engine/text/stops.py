"""Find stop strings in a text that comes in pieces, and send nothing that may turn out to be the head of one."""

from collections.abc import Sequence


class StopStrings:
    """The first stop string in one candidate's text: the one that is complete first, of several the longest.

    The answer does not depend on how the text is cut, and a match is known with its last character. What may become
    one is held back until then, or until it can't.

    A piece pushed with `armed=False` cannot end a match: a stop string whose last character lies in it is plain text.
    One that begins there and ends in an armed piece counts.
    """

    def __init__(self, strings: Sequence[str], include: bool) -> None:
        assert all(strings), "an empty stop string is refused with the request"
        self.matched: str | None = None
        self._strings = tuple(strings)
        self._include = include
        self._longest = max((len(stop) for stop in strings), default=0)
        self._held = ""
        self._armed = b""  # of each held character, whether it may end a match

    def push(self, text: str, *, armed: bool = True) -> str:
        """What may be sent now. Text after a match is dropped."""
        if self.matched is not None or not self._strings:
            return "" if self._strings else text
        self._held += text
        self._armed += bytes([armed]) * len(text)
        if (found := self._first_match()) is not None:
            start, self.matched = found
            sent, self._held = self._held[: start + len(self.matched) * self._include], ""
            return sent
        undecided = self._first_beginning()
        sent, self._held = self._held[:undecided], self._held[undecided:]
        self._armed = self._armed[undecided:]
        return sent

    def finish(self) -> str:
        """The end of the text: what was held back and is no match after all."""
        sent, self._held = self._held, ""
        return sent

    def _first_match(self) -> tuple[int, str] | None:
        """Where the whole stop string begins that ends first in the held text, and which."""
        ends = []
        for stop in self._strings:
            at = self._held.find(stop)
            while at >= 0 and not self._armed[at + len(stop) - 1]:
                at = self._held.find(stop, at + 1)
            if at >= 0:
                ends.append((at + len(stop), at, stop))
        return min(ends)[1:] if ends else None  # of equal ends the earlier beginning: the longest

    def _first_beginning(self) -> int:
        """Where the first suffix begins that more text could make a stop string; the end of the text if nowhere."""
        for at in range(max(0, len(self._held) - self._longest + 1), len(self._held)):
            suffix = self._held[at:]
            if any(len(stop) > len(suffix) and stop.startswith(suffix) for stop in self._strings):
                return at
        return len(self._held)
