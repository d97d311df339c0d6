"""What every test of the engine assumes, one torch thread, and how some of them generate without a scheduler."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from stretto.engine.cache.kv_cache import KVCache
from stretto.engine.messages import Draw, Generate
from stretto.engine.runner import Runner
from stretto.engine.sequence import Sequence, Slice

BLOCK_SIZE, BLOCKS_EACH = 16, 8


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """So that the machine's size changes no sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def greedy() -> Callable[[Any, list[list[int]], int], list[list[int]]]:
    """Greedy texts of a float32 model on the CPU, through the runner and its paged cache.

    All prompts are in one batch, and the first of them is read in pieces of four.
    """

    def generate(model: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
        spec = model.specs[0]
        cache = KVCache(
            layers=len(model.specs),
            num_blocks=BLOCKS_EACH * len(prompts),
            block_size=BLOCK_SIZE,
            key_heads=spec.key_heads,
            head_size=spec.head_size,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        runner = Runner(model, cache, model.config.vocab_size)
        sequences = [
            Sequence(
                request=Generate(id=i, model="m", prompt=prompt, draw=Draw(temperature=0), max_tokens=count),
                candidate=0,
                tokens=list(prompt),
                blocks=list(range(BLOCKS_EACH * i, BLOCKS_EACH * (i + 1))),
            )
            for i, prompt in enumerate(prompts)
        ]
        while unfinished := [one for one in sequences if one.generated < count]:
            batch = [
                Slice(one, one.computed, min(len(one.tokens), one.computed + (4 if one is sequences[0] else 64)))
                for one in unfinished
            ]
            for piece, drawn in zip(batch, runner.run(batch), strict=True):
                piece.sequence.computed = piece.stop
                if drawn is not None:
                    piece.sequence.tokens.append(drawn.token)
        return [one.tokens[len(one.request.prompt) :] for one in sequences]

    return generate
