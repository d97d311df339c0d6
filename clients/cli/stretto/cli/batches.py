"""Texts in order through a few requests at once, so that the server always has the next batch."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from stretto.cli.texts import Text

BATCH_TEXTS = 64
IN_FLIGHT = 4

ResultT = TypeVar("ResultT")


def embedded(texts: Iterator[Text], embed: Callable[[list[str]], list[ResultT]]) -> Iterator[tuple[Text, ResultT]]:
    """Each text with its result, in the order of the texts; the input is read no faster than it is answered."""
    under_way: deque[tuple[list[Text], Future[list[ResultT]]]] = deque()
    pool = ThreadPoolExecutor(IN_FLIGHT)
    try:
        while batch := list(itertools.islice(texts, BATCH_TEXTS)):
            under_way.append((batch, pool.submit(embed, [text.text for text in batch])))
            if len(under_way) == IN_FLIGHT:
                yield from _oldest(under_way)
        while under_way:
            yield from _oldest(under_way)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # closing the client ends what is under way


def _oldest(under_way: deque[tuple[list[Text], Future[list[ResultT]]]]) -> Iterator[tuple[Text, ResultT]]:
    batch, future = under_way.popleft()
    yield from zip(batch, future.result(), strict=True)
