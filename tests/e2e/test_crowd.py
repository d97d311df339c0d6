"""
A crowd for two minutes, a third of it leaving early: every answer is that of the same request alone, nothing is left.

Slow: `make test-slow` runs it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stretto.client import AsyncClient

SECONDS = 120.0
STREAMS, EMBEDDERS = 32, 32
WORDS = ("river", "stone", "lantern", "harbour", "violin", "thunder", "paper", "orchard", "copper", "meadow", "signal")


def asked(number: int) -> dict[str, Any]:
    """Greedy and drawn answers, with and without rules, several candidates, stop strings: one request a number."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_p": 0.9, "seed": number},
        {"temperature": 1.0, "top_k": 40, "seed": number, "candidates": 2},
        {"temperature": 0.0, "stop": ["."]},
    ]
    prompt = " ".join(random.Random(number).choices(WORDS, k=3 + 5 * (number % 7)))
    return {"prompt": prompt, "max_tokens": 8 + number % 17, **kinds[number % len(kinds)]}


def texts(number: int) -> list[str]:
    dice = random.Random(1000 + number)
    return [" ".join(dice.choices(WORDS, k=dice.randint(1, 40))) for _ in range(1 + number % 8)]


async def streamed(client: AsyncClient, number: int, leave_after: int | None = None) -> dict[int, list[int]] | None:
    """The ids of each candidate; None for who left after so many pieces."""
    found: dict[int, list[int]] = {}
    stream = client.stream(**asked(number))
    async with stream:
        pieces = 0
        async for piece in stream:
            found.setdefault(piece.candidate, []).extend(piece.token_ids)
            pieces += 1
            if pieces == leave_after:
                return None
    return found


async def embedded(client: AsyncClient, number: int) -> NDArray[np.float32]:
    return np.asarray(await client.embed(texts(number)))


@pytest.mark.slow
async def test_a_crowd_gets_what_each_gets_alone_and_leaves_nothing(
    server: Any, eventually: Callable[..., None]
) -> None:
    blocks_before = server.total("stretto_kv_cache_blocks")
    async with AsyncClient(server.target, timeout=120) as client:
        alone = [await streamed(client, number) for number in range(28)]
        vectors = [await embedded(client, number) for number in range(16)]
        end = time.monotonic() + SECONDS
        counts = {"streams": 0, "left": 0, "embeds": 0, "cancelled": 0}

        async def stream_on(seed: int) -> None:
            dice = random.Random(seed)
            while time.monotonic() < end:
                number = dice.randrange(len(alone))
                leaves = dice.random() < 1 / 3
                found = await streamed(client, number, dice.randint(1, 6) if leaves else None)
                if found is None:
                    counts["left"] += 1
                else:
                    counts["streams"] += 1
                    assert found == alone[number], f"request {number} got another answer in company"

        async def embed_on(seed: int) -> None:
            dice = random.Random(seed)
            while time.monotonic() < end:
                number = dice.randrange(len(vectors))
                task = asyncio.ensure_future(embedded(client, number))
                if dice.random() < 1 / 3:
                    await asyncio.sleep(dice.random() * 0.2)
                    task.cancel()
                try:
                    found = await task
                except asyncio.CancelledError:
                    counts["cancelled"] += 1
                    continue
                counts["embeds"] += 1
                assert np.abs(found - vectors[number]).max() < 1e-5

        async with asyncio.TaskGroup() as group:
            for seed in range(STREAMS):
                group.create_task(stream_on(seed))
            for seed in range(EMBEDDERS):
                group.create_task(embed_on(100 + seed))
    print(counts)
    assert min(counts.values()) > 0, counts

    def nothing_is_left() -> bool:
        now = server.metrics()
        held = sum(value for name, value in now.items() if "kv_cache_blocks{" in name and 'state="held"' in name)
        waiting = sum(value for name, value in now.items() if name.startswith("stretto_queue_requests{"))
        return held == waiting == 0 == server.total("stretto_requests_in_progress")

    eventually(nothing_is_left, 10.0)
    assert server.total("stretto_kv_cache_blocks") == blocks_before
    async with AsyncClient(server.target, timeout=120) as client:
        assert await streamed(client, 0) == alone[0]
