"""The block pool's books balance, whatever is done to it; a prefix is found by its whole past and nothing else."""

import random

import pytest

from stretto.engine.cache.block_pool import BlockPool, block_key, scope_key


def balanced(pool: BlockPool, total: int, held: set[int]) -> None:
    assert pool.free + pool.held + pool.published == total
    assert pool.held == len(held)
    assert pool.available == pool.free + pool.published


@pytest.mark.parametrize("seed", range(5))
def test_free_held_and_published_are_always_all_blocks(seed: int) -> None:
    """A seeded walk of 20,000 operations against the obvious books: a multiset of who holds what."""
    dice, pool, total = random.Random(seed), BlockPool(12, 4), 12
    holders: list[list[int]] = []
    next_key = 0
    keys: list[bytes] = []
    for _ in range(20_000):
        match dice.randrange(4):
            case 0 if pool.available:
                holders.append([pool.take()])
            case 1 if holders:
                key, next_key = next_key.to_bytes(8, "big"), next_key + 1
                keys.append(key)
                pool.publish(key, dice.choice(holders)[0])
            case 2 if keys:
                if (block := pool.share(dice.choice(keys[-20:]))) is not None:
                    holders.append([block])
            case 3 if holders:
                pool.release(holders.pop(dice.randrange(len(holders))))
        held = {block for blocks in holders for block in blocks}
        balanced(pool, total, held)
    for blocks in holders:
        pool.release(blocks)
    balanced(pool, total, set())


def test_a_block_is_never_handed_out_while_somebody_holds_it() -> None:
    pool = BlockPool(4, 4)
    taken = [pool.take() for _ in range(4)]
    assert sorted(taken) == [0, 1, 2, 3]
    pool.publish(b"prefix", taken[0])
    assert pool.share(b"prefix") == taken[0]
    pool.release([taken[0]])
    assert pool.available == 0


def test_releasing_a_block_twice_is_a_bug_that_is_caught() -> None:
    pool = BlockPool(2, 4)
    block = pool.take()
    pool.release([block])
    with pytest.raises(AssertionError, match="released twice"):
        pool.release([block])


def test_a_published_block_is_found_until_its_room_is_needed_oldest_first() -> None:
    pool = BlockPool(3, 4)
    for name in (b"a", b"b", b"c"):
        block = pool.take()
        pool.publish(name, block)
        pool.release([block])
    pool.release([pool.share(b"a") or 0])  # used again: now b is the oldest
    pool.take()
    assert [pool.share(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_a_withdrawn_block_is_found_no_longer_and_goes_back_to_the_free_ones() -> None:
    pool = BlockPool(2, 4)
    block = pool.take()
    pool.publish(b"bad", block)
    pool.withdraw([block])
    assert pool.share(b"bad") is None
    pool.release([block])
    assert (pool.free, pool.published) == (2, 0)


def test_a_key_says_the_whole_past_the_scope_and_the_adapter() -> None:
    start = scope_key(b"tenant")
    first = block_key(start, [1, 2])
    keys = {
        block_key(first, [3, 4]),
        block_key(block_key(start, [2, 1]), [3, 4]),
        block_key(block_key(scope_key(b"other"), [1, 2]), [3, 4]),
        block_key(block_key(scope_key(b"tenant", b"adapter"), [1, 2]), [3, 4]),
        block_key(block_key(scope_key(b"", b"tenant"), [1, 2]), [3, 4]),
        block_key(start, [1, 2, 3, 4]),
    }
    assert len(keys) == 6
    assert block_key(first, [3, 4]) == block_key(block_key(scope_key(b"tenant"), (1, 2)), (3, 4))
