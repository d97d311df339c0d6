"""Make a text's ids fit a limit by the policy that was asked for, and say how many were cut."""

from collections.abc import Sequence

from stretto.engine.errors import InputTooLong
from stretto.engine.requests import Overflow
from stretto.engine.text.pairs import PairTemplate


def fit(
    body: list[int], limit: int, policy: Overflow, *, head: Sequence[int], tail: Sequence[int], name: str
) -> tuple[list[int], int]:
    """`body` between `head` and `tail`, at most `limit` ids in all, and the number of ids of `body` that were left out.

    The special tokens around a text are never cut. TRUNCATE_MIDDLE keeps both ends, the first the longer by one. CHUNK
    cuts nothing: it is for `windows`, and where one piece is needed it refuses as ERROR does. `name` is the text's in
    the error, here and below.
    """
    room = limit - len(head) - len(tail)
    cut = len(body) - room
    if cut <= 0:
        return [*head, *body, *tail], 0
    if policy in (Overflow.ERROR, Overflow.CHUNK) or room < 1:
        raise _too_long(name, len(head) + len(body) + len(tail), limit)
    return [*head, *_kept(body, room, policy), *tail], cut


def fit_pair(
    first: list[int], second: list[int], limit: int, policy: Overflow, template: PairTemplate, *, name: str
) -> tuple[list[int], list[int], int]:
    """Two texts in their template: ids, segments, and the number of ids that were left out.

    The longer text is cut first, until both are equal; then both in turn. Each is cut where the policy says.
    """
    room = limit - template.num_special
    cut = max(0, len(first) + len(second) - room)
    if cut and (policy in (Overflow.ERROR, Overflow.CHUNK) or room < 2):
        raise _too_long(name, template.num_special + len(first) + len(second), limit)
    if cut:
        shorter = min(len(first), len(second), room // 2)
        longer = room - shorter
        rooms = (longer, shorter) if len(first) > len(second) else (shorter, longer)
        first, second = (_kept(text, most, policy) for text, most in zip((first, second), rooms, strict=True))
    ids, segments = template.joined(first, second)
    return ids, segments, cut


def windows(
    body: list[int], limit: int, overlap: int, *, head: Sequence[int], tail: Sequence[int], most: int, name: str
) -> list[list[int]]:
    """`body` in windows of at most `limit` ids, each between `head` and `tail`; neighbours share `overlap` ids of it.

    What fits one window is one. Raises InputTooLong for more windows than `most`.
    """
    room = limit - len(head) - len(tail)
    stride = room - overlap
    assert stride > 0, "an overlap that leaves no room for anything new is refused before"
    count = max(1, -(-(len(body) - overlap) // stride))
    if count > most:
        raise InputTooLong(
            f"{name} makes {count} chunks; the limit is {most}. Shorten it, or ask for larger chunks.",
            metadata={"chunk_count": str(count), "max_chunks": str(most), "token_count": str(len(body))},
        )
    return [[*head, *body[start : start + room], *tail] for start in range(0, count * stride, stride)]


def _kept(body: list[int], room: int, policy: Overflow) -> list[int]:
    if len(body) <= room:
        return body
    match policy:
        case Overflow.TRUNCATE_END:
            return body[:room]
        case Overflow.TRUNCATE_START:
            return body[-room:]
        case _:
            last = room // 2
            return body[: room - last] + body[len(body) - last :]


def _too_long(name: str, count: int, limit: int) -> InputTooLong:
    return InputTooLong(
        f"{name} makes {count} tokens; the limit is {limit}. Shorten it, or ask for a truncating overflow policy.",
        metadata={"token_count": str(count), "max": str(limit)},
    )
