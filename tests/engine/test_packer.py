"""Texts are encoded in the order of their priority and arrival, packed up to a budget, and each ends exactly once."""

import random

from stretto.engine.messages import Encode
from stretto.engine.packer import Packer


def text(request_id: int, length: int, index: int = 0, **more: object) -> Encode:
    ids = [1] * length
    return Encode(id=request_id, index=index, model="m", ids=ids, pooling="mean", normalize=True, **more)  # type: ignore[arg-type]


def test_a_step_takes_texts_in_order_up_to_the_budget_of_real_tokens() -> None:
    packer = Packer()
    for i, length in enumerate([5, 3, 8, 2]):
        packer.add(text(i, length), now=0.0)
    assert [[t.request.id for t in packer.plan(10, 0.0)] for _ in range(2)] == [[0, 1], [2, 3]]
    assert packer.idle


def test_a_text_longer_than_the_budget_goes_alone_and_holds_up_nobody_for_ever() -> None:
    packer = Packer()
    for i, length in enumerate([50, 1, 60, 1]):
        packer.add(text(i, length), now=0.0)
    taken = [[t.request.id for t in packer.plan(10, 0.0)] for _ in range(4)]
    assert taken == [[0], [1], [2], [3]]


def test_a_larger_priority_is_encoded_earlier() -> None:
    packer = Packer()
    for i, priority in enumerate([0, 7, 0, 7]):
        packer.add(text(i, 4, priority=priority), now=0.0)
    assert [t.request.id for t in packer.plan(100, 0.0)] == [1, 3, 0, 2]


def test_a_cancelled_request_is_skipped_with_all_its_texts() -> None:
    packer = Packer()
    for index in range(3):
        packer.add(text(1, 4, index), now=0.0)
        packer.add(text(2, 4, index), now=0.0)
    packer.cancel(1)
    assert [(t.request.id, t.request.index) for t in packer.plan(100, 0.0)] == [(2, 0), (2, 1), (2, 2)]


def test_a_text_past_its_deadline_or_queue_timeout_is_never_encoded() -> None:
    packer = Packer()
    packer.add(text(1, 4, deadline=5.0), now=0.0)
    packer.add(text(2, 4, start_by=4.0), now=0.0)
    packer.add(text(3, 4, deadline=9.0), now=0.0)
    assert [(e.id, e.index, e.reason) for e in packer.expire(5.0)] == [(1, 0, "DEADLINE"), (2, 0, "QUEUE_TIMEOUT")]
    assert [t.request.id for t in packer.plan(100, 5.0)] == [3]


def test_queue_timeout_is_for_requests_of_which_no_step_took_a_text() -> None:
    packer = Packer()
    for index in range(3):
        packer.add(text(1, 8, index, start_by=5.0), now=0.0)
    packer.add(text(2, 8, start_by=5.0), now=0.0)
    packer.plan(8, 1.0)
    assert [(e.id, e.reason) for e in packer.expire(6.0)] == [(2, "QUEUE_TIMEOUT")]


def test_every_text_that_was_taken_gets_its_vector_once() -> None:
    dice, packer = random.Random(0), Packer()
    for i in range(200):
        packer.add(text(i, dice.randrange(1, 30)), now=0.0)
    ended: list[int] = []
    while not packer.idle:
        batch = packer.plan(64, 1.0)
        events = packer.commit(batch, [bytes([t.request.id % 256]) for t in batch], 2.0)
        assert all(event.vector == bytes([event.id % 256]) for event in events)
        ended += [event.id for event in events]
    assert ended == list(range(200))


def test_the_account_says_what_a_text_was_batched_with() -> None:
    packer = Packer()
    for i, length in enumerate([3, 5]):
        packer.add(text(i, length), now=0.0)
    first, second = packer.commit(packer.plan(64, 1.0), [b"", b""], 3.0)
    assert (first.account.co_batched_tokens, second.account.co_batched_tokens, first.account.max_batch) == (5, 3, 2)
    assert (first.account.queue_seconds, first.account.prefill_seconds) == (1.0, 2.0)


def test_the_other_texts_of_a_request_are_not_tokens_of_other_requests() -> None:
    packer = Packer()
    for request_id, index, length in [(1, 0, 3), (1, 1, 5), (2, 0, 7)]:
        packer.add(text(request_id, length, index), now=0.0)
    events = packer.commit(packer.plan(64, 1.0), [b""] * 3, 3.0)
    assert [event.account.co_batched_tokens for event in events] == [7, 7, 8]
