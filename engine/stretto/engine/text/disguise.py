"""
Typed text in disguise: what a person wrote can then be told from what a template wrote, whatever it does with it.

Each character that occurs in some control token is replaced, in typed text, by a character of its own from the private
planes. A template that trims, splits, joins and quotes does the same to the one as to the other, so that in its output
every character shows where it came from, and no control token in it can have a typed part.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

FIRST_STAND_IN, LAST_STAND_IN = 0xF0000, 0x10FFFD


class Disguise:
    """For the texts of one chat. `words` are left as they are: a template compares with them (the name of a role)."""

    def __init__(self, control_texts: Collection[str], words: frozenset[str], avoid: str) -> None:
        letters = sorted(set("".join(control_texts)))
        taken = set(avoid)
        free = (chr(code) for code in range(FIRST_STAND_IN, LAST_STAND_IN) if chr(code) not in taken)
        stand_ins = [next(free) for _ in letters]
        self._words = words
        self._hide = str.maketrans(dict(zip(letters, stand_ins, strict=True)))
        self._reveal = str.maketrans(dict(zip(stand_ins, letters, strict=True)))
        self._undisguised = re.compile(f"[^{''.join(stand_ins)}]+" if stand_ins else r"(?s:.+)")

    def put_on(self, value: Any) -> Any:
        """The same value with every string in it in disguise, those that are keys too."""
        if isinstance(value, str):
            return value if value in self._words else value.translate(self._hide)
        if isinstance(value, Mapping):
            return {self.put_on(key): self.put_on(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.put_on(part) for part in value]
        return value

    def take_off(self, text: str) -> str:
        return text.translate(self._reveal)

    def undisguised(self, text: str) -> Iterator[tuple[int, str]]:
        """The stretches of a text with nothing in disguise, and where each begins."""
        return ((match.start(), match[0]) for match in self._undisguised.finditer(text))

    def hides(self, text: str) -> bool:
        return any(ord(character) in self._reveal for character in text)


def strings(value: Any) -> Iterator[str]:
    """Every string in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from strings(key)
            yield from strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings(part)
