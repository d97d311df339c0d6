"""
The scheduler alone, over a stand-in for the model: a function of the tokens. What it plans must be right whatever the
model computes: every request ends once, with the tokens it would have had alone.
"""

import random
from hashlib import blake2b

import pytest

from stretto.engine.cache.block_pool import BlockPool
from stretto.engine.messages import Draw, Failed, Generate, Token
from stretto.engine.scheduler import Scheduler
from stretto.engine.sequence import Batch, Drawn

GREEDY = Draw(temperature=0.0)


def next_token(tokens: list[int]) -> int:
    """What our 'model' says after these tokens: any function of all of them will do."""
    return blake2b(bytes(tokens), digest_size=1).digest()[0] % 50


def alone(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class Cache:
    """Which tokens stand in which block, as the tensors would hold them: a plan that reads a wrong one is found out."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.slots: dict[int, int] = {}

    def run(self, batch: Batch) -> list[Drawn | None]:
        for piece in batch:
            assert piece.start < piece.stop <= len(piece.sequence.tokens)
            assert len(piece.sequence.blocks) == -(-piece.stop // self.block_size)
            for position in range(piece.start, piece.stop):
                self.slots[self._slot(piece.sequence.blocks, position)] = piece.sequence.tokens[position]
        return [self._draw(piece.sequence.blocks, piece.stop) if piece.samples else None for piece in batch]

    def _draw(self, blocks: list[int], stop: int) -> Drawn:
        return Drawn(next_token([self.slots[self._slot(blocks, i)] for i in range(stop)]))

    def _slot(self, blocks: list[int], position: int) -> int:
        return blocks[position // self.block_size] * self.block_size + position % self.block_size


class Run:
    """A scheduler and its cache, stepped until nothing is left, with every event kept."""

    def __init__(self, *, blocks: int = 32, block_size: int = 4, sequences: int = 8, budget: int = 16) -> None:
        self.scheduler = Scheduler(BlockPool(blocks, block_size), sequences)
        self.cache = Cache(block_size)
        self.budget = budget
        self.now = 0.0
        self.events: list[Token | Failed] = []
        self.batches: list[list[tuple[int, int, int]]] = []

    def add(self, request_id: int, prompt: list[int], max_tokens: int = 8, **more: object) -> None:
        request = Generate(id=request_id, model="m", prompt=prompt, draw=GREEDY, max_tokens=max_tokens, **more)  # type: ignore[arg-type]
        self.scheduler.add(request, self.now)

    def step(self) -> None:
        self.now += 1
        self.events += self.scheduler.expire(self.now)
        if self.scheduler.idle:
            return
        batch = self.scheduler.plan(self.budget, self.budget, self.now)
        assert batch, "a scheduler with work must plan some"
        assert sum(piece.count for piece in batch) <= self.budget
        self.batches.append([(piece.sequence.request.id, piece.start, piece.stop) for piece in batch])
        self.events += self.scheduler.commit(batch, self.cache.run(batch), self.now)

    def drain(self) -> None:
        for _ in range(10_000):
            if self.scheduler.idle:
                return
            self.step()
        raise AssertionError("the scheduler never came to an end")

    def tokens(self, request_id: int, candidate: int = 0) -> list[int]:
        mine = [e for e in self.events if isinstance(e, Token) and (e.id, e.candidate) == (request_id, candidate)]
        return [event.token for event in mine if event.token >= 0]

    def ends(self, request_id: int) -> list[Token | Failed]:
        return [e for e in self.events if e.id == request_id and (isinstance(e, Failed) or e.finish)]


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(50) for _ in range(dice.randrange(1, 30))] for _ in range(count)]


@pytest.mark.parametrize("blocks", [64, 12, 10])  # 12 and 10 force evictions
@pytest.mark.parametrize("budget", [1, 5, 64])  # 1 and 5 split every prompt
@pytest.mark.parametrize("sequences", [1, 3, 8])
def test_every_way_of_batching_gives_each_request_the_tokens_it_has_alone(
    blocks: int, budget: int, sequences: int
) -> None:
    run = Run(blocks=blocks, budget=budget, sequences=sequences)
    asked = prompts(9)
    for i, prompt in enumerate(asked):
        run.add(i, prompt)
    run.drain()
    for i, prompt in enumerate(asked):
        assert run.tokens(i) == alone(prompt, 8)
        assert len(run.ends(i)) == 1
    assert run.scheduler.pool.held == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_walk_of_arrivals_cancels_stops_and_failures_ends_every_request_once_and_leaks_no_block(seed: int) -> None:
    dice = random.Random(seed)
    run = Run(blocks=14, budget=dice.choice([2, 7, 30]))
    asked: dict[int, list[int]] = {}
    dropped: set[int] = set()
    for i in range(150):
        asked[i] = [7] * dice.choice([0, 8, 12]) + [dice.randrange(50) for _ in range(dice.randrange(1, 20))]
        candidates, priority = dice.choice([1, 1, 3]), dice.choice([0, 0, 5])
        run.add(i, asked[i], candidates=candidates, priority=priority, max_tokens=dice.randrange(12))
        for _ in range(dice.randrange(3)):
            run.step()
        victim = dice.randrange(i + 1)
        ended = any(isinstance(e, Failed) or e.account for e in run.ends(victim))
        match dice.randrange(8):
            case 0 if not ended:
                run.scheduler.cancel(victim)
                dropped.add(victim)
            case 1 if not ended and victim not in dropped:
                run.scheduler.fail(victim)
                dropped.add(victim)
            case 2:
                run.events += run.scheduler.stop(victim, 0, run.now)
        pool = run.scheduler.pool
        assert pool.free + pool.held + pool.published == 14
    run.drain()
    assert run.scheduler.pool.held == 0
    for i, prompt in asked.items():
        accounts = [e for e in run.ends(i) if isinstance(e, Token) and e.account is not None]
        assert len(accounts) == (0 if i in dropped else 1), "the last candidate's end carries the account, once"
        want = alone(prompt, 12)
        for candidate in range(3):
            got = run.tokens(i, candidate)
            assert got == want[: len(got)]


def test_a_shared_prefix_is_computed_once() -> None:
    run = Run()
    prompt = list(range(17))
    run.add(1, prompt, max_tokens=1)
    run.drain()
    run.batches.clear()
    run.add(2, prompt, max_tokens=1)
    run.drain()
    assert run.batches == [[(2, 16, 17)]]
    (end,) = run.ends(2)
    assert isinstance(end, Token)
    assert end.account is not None
    assert end.account.cached_tokens == 16


@pytest.mark.parametrize("more", [{"scope": b"another tenant"}, {"share_prefix": False}])
def test_another_scope_or_a_request_that_asks_not_to_shares_nothing(more: dict[str, object]) -> None:
    run = Run(budget=32)
    prompt = list(range(17))
    run.add(1, prompt, max_tokens=1)
    run.drain()
    run.add(2, prompt, max_tokens=1, **more)
    run.drain()
    assert run.batches[-1] == [(2, 0, 17)]


def test_candidates_of_one_prompt_compute_it_once() -> None:
    run = Run(budget=64)
    run.add(1, list(range(18)), max_tokens=2, candidates=4)
    run.drain()
    first, second = run.batches[:2]
    assert first == [(1, 0, 18)]
    assert sorted(second) == [(1, 16, 18)] * 3 + [(1, 18, 19)]


def test_who_decodes_is_not_held_up_by_a_long_prompt() -> None:
    run = Run(blocks=64, budget=8)
    run.add(1, [1, 2, 3], max_tokens=20)
    run.step()
    run.add(2, list(range(50)), max_tokens=1)
    for _ in range(5):
        run.step()
        assert (1, len(run.batches) + 1, len(run.batches) + 2) in run.batches[-1]


def test_a_prefill_budget_cuts_prompts_and_spares_the_decoding() -> None:
    run = Run(blocks=64)
    run.add(1, [1, 2, 3])
    run.step()
    run.add(2, list(range(30)))
    batch = run.scheduler.plan(16, 4, 5.0)
    assert [(piece.sequence.request.id, piece.count) for piece in batch] == [(1, 1), (2, 4)]


def test_a_larger_priority_runs_earlier_and_is_evicted_later() -> None:
    run = Run(sequences=1, budget=64)
    for i, priority in enumerate([0, 0, 9]):
        run.add(i, [i, i], max_tokens=1, priority=priority)
    run.drain()
    assert [batch[0][0] for batch in run.batches] == [2, 0, 1]

    tight = Run(blocks=6, block_size=4, budget=64)
    tight.add(1, [1] * 9, max_tokens=8, priority=5)
    tight.add(2, [2] * 9, max_tokens=8)
    tight.drain()
    accounts = {e.id: e.account for e in tight.events if isinstance(e, Token) and e.account}
    assert (accounts[1].preemptions, accounts[2].preemptions > 0) == (0, True)
    assert tight.tokens(2) == alone([2] * 9, 8)


def test_a_deadline_ends_a_request_wherever_it_is_and_frees_its_blocks() -> None:
    run = Run(sequences=1)
    run.add(1, [1, 2], max_tokens=100, deadline=5.0)
    run.add(2, [3, 4], max_tokens=100, deadline=4.0)
    for _ in range(6):
        run.step()
    assert [(e.id, e.reason) for e in run.events if isinstance(e, Failed)] == [(2, "DEADLINE"), (1, "DEADLINE")]
    assert run.scheduler.idle
    assert run.scheduler.pool.held == 0
    assert not any(request_id == 2 for batch in run.batches for request_id, _, _ in batch)


def test_queue_timeout_is_for_those_who_never_started() -> None:
    run = Run(sequences=1)
    run.add(1, [1, 2], max_tokens=10, start_by=2.0)
    run.add(2, [3, 4], max_tokens=10, start_by=2.0)
    run.drain()
    (failed,) = [e for e in run.events if isinstance(e, Failed)]
    assert (failed.id, failed.reason) == (2, "QUEUE_TIMEOUT")
    assert "; 0 sequences of other requests are waiting" in failed.message  # not the one that gives up
    assert run.tokens(1) == alone([1, 2], 10)


def test_a_time_limit_ends_every_candidate_with_what_there_is() -> None:
    run = Run(budget=64)
    run.add(1, [1, 2], max_tokens=100, candidates=2, stop_at=4.0)
    run.drain()
    ends = run.ends(1)
    assert [e.finish for e in ends if isinstance(e, Token)] == ["time", "time"]
    assert [e.account is not None for e in ends if isinstance(e, Token)] == [False, True]
    assert run.tokens(1) == alone([1, 2], len(run.tokens(1)))
    assert len(run.tokens(1)) == 3


def test_max_tokens_zero_reads_the_prompt_and_draws_nothing() -> None:
    run = Run(budget=4)
    run.add(1, list(range(10)), max_tokens=0)
    run.drain()
    (end,) = run.events
    assert isinstance(end, Token)
    assert (end.token, end.finish, end.account is not None) == (-1, "length", True)
    assert [batch[0][1:] for batch in run.batches] == [(0, 4), (4, 8), (8, 10)]


def test_a_stop_token_ends_a_candidate_and_is_its_last_token() -> None:
    want = alone([5], 20)
    stop = want[6]
    run = Run()
    run.add(1, [5], max_tokens=20, stop_ids=[stop])
    run.drain()
    assert run.tokens(1) == want[: want.index(stop) + 1]
    assert [e.finish for e in run.ends(1) if isinstance(e, Token)] == ["stop"]


@pytest.mark.parametrize("steps", [0, 2])  # at 0 the other still waits for the first to read the prompt
def test_a_stopped_candidate_finishes_and_the_others_go_on(steps: int) -> None:
    run = Run(budget=64)
    run.add(1, [1, 2, 3], max_tokens=6, candidates=2)
    for _ in range(steps):
        run.step()
    run.events += run.scheduler.stop(1, 0, run.now)
    assert run.scheduler.stop(1, 0, run.now) == []
    run.drain()
    assert run.tokens(1, 1) == alone([1, 2, 3], 6)
    assert [e.account is not None for e in run.ends(1) if isinstance(e, Token)] == [False, True]


def test_a_failed_request_names_the_blocks_to_clean_and_they_are_found_no_longer() -> None:
    run = Run(budget=64)
    prompt = list(range(12))
    run.add(1, prompt, max_tokens=5)
    run.step()
    dirty = run.scheduler.fail(1)
    assert len(dirty) == 3
    assert run.scheduler.idle
    run.add(2, prompt, max_tokens=1)
    run.drain()
    assert run.batches[-1] == [(2, 0, 12)]


@pytest.mark.parametrize("budget", [3, 6, 64])
def test_requests_that_share_prefixes_do_not_see_each_others_unfinished_blocks(budget: int) -> None:
    run = Run(budget=budget)
    stem = [9] * 8 + list(range(8))
    asked = [stem[:n] for n in (16, 16, 12, 8, 16, 13)]
    for i, prompt in enumerate(asked):
        run.add(i, prompt, max_tokens=6)
    run.drain()
    assert [run.tokens(i) for i in range(6)] == [alone(prompt, 6) for prompt in asked]


def test_the_account_says_what_the_request_was_batched_with() -> None:
    run = Run(budget=64)
    run.add(1, [1, 2, 3], max_tokens=2)
    run.add(2, [4, 5, 6, 7], max_tokens=2)
    run.drain()
    (account,) = [e.account for e in run.ends(1) if isinstance(e, Token)]
    assert account is not None
    assert (account.steps, account.min_batch, account.max_batch, account.co_batched_tokens) == (2, 2, 2, 5)
    assert (account.queue_seconds, account.prefill_seconds, account.decode_seconds) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("share", [True, False])
def test_a_prompt_that_does_not_fit_yet_is_not_begun(share: bool) -> None:
    run = Run(blocks=256, block_size=16, sequences=64, budget=512)
    for i in range(8):
        run.add(i, [i + 1] * 240, max_tokens=200)
    run.add(99, [i % 50 for i in range(2400)], max_tokens=1, share_prefix=share)
    run.drain()
    assert sum(stop - start for batch in run.batches for i, start, stop in batch if i == 99) == 2400


def test_the_account_counts_the_blocks_of_all_candidates_at_their_most() -> None:
    run = Run(budget=64)
    run.add(1, [1] * 8, max_tokens=5, candidates=2)
    run.drain()
    (account,) = [e.account for e in run.ends(1) if isinstance(e, Token) and e.account]
    assert account.peak_blocks == 6


def test_candidates_that_wait_share_their_prompt_and_each_that_runs_has_its_own_tokens() -> None:
    run = Run(sequences=2)
    suffixes = [[number] for number in range(40)]
    run.add(1, [9] * 10, 0, candidates=40, suffixes=suffixes, score_suffixes=True, share_prefix=False)
    waiting = run.scheduler._waiting
    assert len({id(sequence.tokens) for sequence in waiting}) == 1
    assert [sequence.pending for sequence in waiting] == [11] * 40
    batch = run.scheduler.plan(run.budget, run.budget, 1.0)
    assert [piece.sequence.tokens for piece in batch] == [[9] * 10 + [0], [9] * 10 + [1]]
    assert len(run.scheduler._waiting) == 38
    assert len({id(sequence.tokens) for sequence in run.scheduler._waiting}) == 1
