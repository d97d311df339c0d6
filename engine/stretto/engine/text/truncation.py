"""Make a text's ids fit a limit by the policy that was asked for, and say how many were cut."""

from collections.abc import Sequence

from stretto.engine.errors import InputTooLong
from stretto.engine.requests import Overflow


def fit(
    body: list[int], limit: int, policy: Overflow, *, head: Sequence[int], tail: Sequence[int]
) -> tuple[list[int], int]:
    """`body` between `head` and `tail`, at most `limit` ids in all, and the number of ids of `body` that were left out.

    The special tokens around a text are never cut. TRUNCATE_MIDDLE keeps both ends, the first the longer by one.
    """
    room = limit - len(head) - len(tail)
    cut = len(body) - room
    if cut <= 0:
        return [*head, *body, *tail], 0
    if policy is Overflow.ERROR or room < 1:
        raise _too_long(len(head) + len(body) + len(tail), limit)
    return [*head, *_kept(body, room, policy), *tail], cut


def _kept(body: list[int], room: int, policy: Overflow) -> list[int]:
    match policy:
        case Overflow.TRUNCATE_END:
            return body[:room]
        case Overflow.TRUNCATE_START:
            return body[-room:]
        case _:
            last = room // 2
            return body[: room - last] + body[len(body) - last :]


def _too_long(count: int, limit: int) -> InputTooLong:
    return InputTooLong(
        f"The input makes {count} tokens; the limit is {limit}. Shorten it, or ask for a truncating overflow policy.",
        metadata={"token_count": str(count), "max": str(limit)},
    )
