"""How a tokenizer puts two texts together, as its post-processor does it: special tokens, and a segment for each id."""

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers


@dataclass(frozen=True, slots=True)
class Marks:
    """Special tokens that stand side by side, and the segments that they are of."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTemplate:
    """What stands before, between and after two texts, and the segment of each text."""

    before: Marks
    between: Marks
    after: Marks
    first_segment: int
    second_segment: int

    @property
    def num_special(self) -> int:
        return len(self.before.ids) + len(self.between.ids) + len(self.after.ids)

    @property
    def num_segments(self) -> int:
        """The largest segment and one."""
        marks = (self.before, self.between, self.after)
        return 1 + max(self.first_segment, self.second_segment, *(each for mark in marks for each in mark.segments))

    def joined(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ids of both texts with everything around them, and their segments."""
        ids = [*self.before.ids, *first, *self.between.ids, *second, *self.after.ids]
        firsts, seconds = [self.first_segment] * len(first), [self.second_segment] * len(second)
        return ids, [*self.before.segments, *firsts, *self.between.segments, *seconds, *self.after.segments]


def pair_template(library: tokenizers.Tokenizer) -> PairTemplate | None:
    """The template, seen on a pair that every vocabulary has ids for; None where nothing stands between them."""
    seen = library.encode("a", "a", add_special_tokens=True)
    owners = [
        None if special else owner for special, owner in zip(seen.special_tokens_mask, seen.sequence_ids, strict=True)
    ]
    if 0 not in owners or 1 not in owners:
        return None
    first, second = owners.index(0), owners.index(1)
    first_end, second_end = (len(owners) - owners[::-1].index(text) for text in (0, 1))
    if not first < first_end < second < second_end:  # equal: they stand side by side, like one text
        return None

    def marks(start: int, stop: int) -> Marks:
        return Marks(tuple(seen.ids[start:stop]), tuple(seen.type_ids[start:stop]))

    return PairTemplate(
        before=marks(0, first),
        between=marks(first_end, second),
        after=marks(second_end, len(owners)),
        first_segment=seen.type_ids[first],
        second_segment=seen.type_ids[second],
    )
