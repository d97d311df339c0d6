"""What one row of logits is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.engine.messages import Draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one row wants: its draw, which draw it is, what is banned from it, and what to tell beside the token.

    `tokens` is all that stands before, the prompt and the answer; the last `generated` of them are the answer.
    """

    draw: Draw
    candidate: int
    position: int
    number: int = 0
    tokens: Sequence[int] = ()
    generated: int = 0
    banned: Sequence[int] = ()
    top: int = 0
    also: Sequence[int] = ()
