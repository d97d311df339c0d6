"""Questions asked a few at once and answered in their order, so that the server always has the next one."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from stretto.client import BadTokenId, EmptyInput, InputTooLong, InvalidRequest

AT_ONCE = 8
# What is wrong with one question alone; all else, an option out of its range, would be wrong with the next, too.
ITS_OWN = (BadTokenId, EmptyInput, InputTooLong)
ITS_FIELDS = ("text", "inputs[", "items[")

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")


def answered(
    questions: Iterator[QuestionT], ask: Callable[[QuestionT], AnswerT]
) -> Iterator[tuple[QuestionT, AnswerT | InvalidRequest]]:
    """
    Each question with its answer, or with why it was refused, which does not end the others.

    No more than a few are held, and read no faster than they are answered.
    """
    under_way: deque[tuple[QuestionT, Future[AnswerT]]] = deque()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for question in questions:
            under_way.append((question, pool.submit(ask, question)))
            yield from _finished(under_way, left=AT_ONCE - 1)
        yield from _finished(under_way, left=0)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # closing the client ends what is under way


def _finished(
    under_way: deque[tuple[QuestionT, Future[AnswerT]]], *, left: int
) -> Iterator[tuple[QuestionT, AnswerT | InvalidRequest]]:
    """The oldest, waited for until no more than `left` are under way."""
    while len(under_way) > left:
        question, future = under_way.popleft()
        try:
            yield question, future.result()
        except InvalidRequest as error:
            if not (isinstance(error, ITS_OWN) or (error.field or "").startswith(ITS_FIELDS)):
                raise
            yield question, error
