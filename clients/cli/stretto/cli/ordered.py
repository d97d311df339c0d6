"""Questions asked a few at once and answered in their order, so that the server always has the next one."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 8

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")


def answered(
    questions: Iterator[QuestionT], ask: Callable[[QuestionT], AnswerT]
) -> Iterator[tuple[QuestionT, AnswerT]]:
    """Each question with its answer; no more than a few are held, and read no faster than they are answered."""
    under_way: deque[tuple[QuestionT, Future[AnswerT]]] = deque()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for question in questions:
            under_way.append((question, pool.submit(ask, question)))
            if len(under_way) == AT_ONCE:
                yield _oldest(under_way)
        while under_way:
            yield _oldest(under_way)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # closing the client ends what is under way


def _oldest(under_way: deque[tuple[QuestionT, Future[AnswerT]]]) -> tuple[QuestionT, AnswerT]:
    question, future = under_way.popleft()
    return question, future.result()
