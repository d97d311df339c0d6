"""Attention over the cache equals attention at once, however the work was cut up and whoever was beside."""

import random

import pytest
import torch
from torch import Tensor

from stretto.engine.attention import Causal
from stretto.engine.cache.kv_cache import KVCache, Paged, bytes_per_token, padding
from stretto.engine.families.llama import LlamaConfig
from stretto.engine.families.rope import Rope
from stretto.engine.messages import Draw, Generate
from stretto.engine.models.llama import Llama
from stretto.engine.models.parts import Rows
from stretto.engine.rotary import Rotary
from stretto.engine.sequence import Batch, Sequence, Slice

CONFIG = LlamaConfig(
    vocab_size=96,
    context=128,
    width=32,
    layers=2,
    heads=6,
    key_heads=2,
    head_size=8,
    mlp_width=48,
    norm_eps=1e-5,
    rope=Rope(size=8, inverse_frequencies=(1.0, 0.1, 0.01, 0.001)),
    attention_bias=False,
    mlp_bias=False,
    tied=False,
    head=True,
)


@pytest.fixture(scope="module")
def model() -> Llama:
    torch.manual_seed(0)
    return Llama(CONFIG).eval().requires_grad_(False)


def new_cache(num_blocks: int, block_size: int, device: str = "cpu") -> KVCache:
    return KVCache(
        layers=CONFIG.layers,
        num_blocks=num_blocks,
        block_size=block_size,
        key_heads=CONFIG.key_heads,
        head_size=CONFIG.head_size,
        dtype=torch.float32,
        device=torch.device(device),
    )


def sequence(tokens: list[int], blocks: list[int]) -> Sequence:
    asked = Generate(id=1, model="m", prompt=tokens, draw=Draw(temperature=0), max_tokens=1)
    return Sequence(request=asked, candidate=0, tokens=tokens, blocks=blocks)


def step(model: Llama, cache: KVCache, batch: Batch) -> list[Tensor]:
    """The hidden states of each slice."""
    attend = Paged(cache, batch, Rotary())
    ids = torch.tensor([token for piece in batch for token in piece.sequence.tokens[piece.start : piece.stop]])
    with torch.inference_mode():
        hidden = model(Rows(ids=ids.to(cache.device), positions=attend.positions), attend)
    return list(torch.split(hidden, [piece.count for piece in batch]))


def at_once(model: Llama, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        hidden: Tensor = model(Rows(ids=torch.tensor(tokens), positions=torch.arange(len(tokens))), Causal())
    return hidden


@pytest.mark.parametrize("block_size", [1, 3, 16])
@pytest.mark.parametrize("largest", [1, 2, 7, 64])  # 1: all decoding; 64: prompts whole
@pytest.mark.parametrize("seed", range(3))
def test_every_way_of_cutting_the_work_gives_the_answer_of_doing_it_at_once(
    model: Llama, block_size: int, largest: int, seed: int
) -> None:
    chance = random.Random(seed)
    free = list(range(40 * 40 // block_size + 10))
    chance.shuffle(free)
    sequences = []
    for length in (1, 2, 40, 13, 17, 30):
        blocks = [free.pop() for _ in range(-(-length // block_size) + 1)]
        sequences.append(sequence([chance.randrange(96) for _ in range(length)], blocks))
    cache = new_cache(40 * 40 // block_size + 10, block_size)
    got: dict[Sequence, list[Tensor]] = {one: [] for one in sequences}
    while unfinished := [one for one in sequences if one.pending]:
        chosen = chance.sample(unfinished, chance.randint(1, len(unfinished)))
        batch = [Slice(s, s.computed, s.computed + chance.randint(1, min(largest, s.pending))) for s in chosen]
        for piece, hidden in zip(batch, step(model, cache, batch), strict=True):
            got[piece.sequence].append(hidden)
            piece.sequence.computed = piece.stop
    for one, pieces in got.items():
        torch.testing.assert_close(torch.cat(pieces), at_once(model, one.tokens), atol=2e-5, rtol=0)


def test_a_token_far_into_a_text_is_turned_by_its_own_position(model: Llama) -> None:
    cache = new_cache(80, 4)
    one = sequence([position % 96 for position in range(300)], list(range(80)))
    for start, stop in ((0, 290), (290, 299), (299, 300)):
        (hidden,) = step(model, cache, [Slice(one, start, stop)])
    torch.testing.assert_close(hidden, at_once(model, one.tokens)[299:], atol=2e-5, rtol=0)


def test_shared_blocks_serve_two_sequences(model: Llama) -> None:
    cache = new_cache(8, 4)
    prefix = [5, 6, 7, 8]
    first, second = sequence([*prefix, 9, 10], [3, 1]), sequence([*prefix, 20], [3, 6])
    step(model, cache, [Slice(first, 0, 6)])
    (hidden,) = step(model, cache, [Slice(second, 4, 5)])
    torch.testing.assert_close(hidden[0], at_once(model, second.tokens)[4], atol=2e-5, rtol=0)


@pytest.mark.parametrize("pieces", [[(0, 9)], [(0, 8), (8, 9)], [(0, 4), (4, 9)]])
def test_numbers_that_are_none_in_other_slots_never_reach_a_sequence(
    model: Llama, pieces: list[tuple[int, int]]
) -> None:
    """Other blocks, the unwritten end of its own last block, and longer neighbours are all NaN."""
    cache = new_cache(16, 4)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    one = sequence(list(range(10, 19)), [7, 0, 12, 3])
    broken = sequence(list(range(40, 60)), [1, 2, 4, 5, 6])
    for start, stop in pieces:
        neighbour = Slice(broken, 18 if stop - start == 1 else 15, 19)  # its context was never written
        mine, theirs = step(model, cache, [Slice(one, start, stop), neighbour])
        assert theirs.isnan().all()
    torch.testing.assert_close(mine, at_once(model, one.tokens)[start:stop], atol=2e-5, rtol=0)


@pytest.mark.parametrize("cuts", [[(0, 5)], [(4, 5), (8, 9), (0, 1)], [(6, 7), (0, 9), (2, 3)], [(3, 4), (3, 4)]])
def test_padding_counts_the_places_that_are_gathered_for_nobody(cuts: list[tuple[int, int]]) -> None:
    cache = new_cache(8, 4)
    batch = [Slice(sequence([5] * 9, [1, 2, 3]), start, stop) for start, stop in cuts]
    gathered = Paged(cache, batch, Rotary())._contexts
    places = 0 if gathered is None else len(gathered[0])
    assert padding(batch) == places - sum(stop for start, stop in cuts if stop - start == 1)


def test_zeroed_blocks_hold_zeros_and_the_others_what_they_held() -> None:
    cache = new_cache(4, 2)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(1.0)
    cache.zero([1, 3])
    slots = torch.tensor([False, False, True, True, False, False, True, True])
    assert (cache.keys[:, slots] == 0).all()
    assert (cache.values[:, slots] == 0).all()
    assert cache.keys[:, ~slots].isnan().all()
    assert (cache.values[:, ~slots] == 1).all()


def test_the_cost_of_a_token_is_what_the_tensors_take() -> None:
    cache = new_cache(4, 2)
    cost = bytes_per_token(layers=2, key_heads=2, head_size=8, dtype=torch.float32)
    assert 8 * cost == cache.keys.nbytes + cache.values.nbytes


def test_a_step_makes_every_tensor_where_the_cache_is(model: Llama) -> None:
    """The meta device stands for a GPU: an operator that met a tensor of the host's would raise."""
    torch.manual_seed(0)
    distant = Llama(CONFIG).eval().requires_grad_(False).to("meta")
    cache = new_cache(16, 4, device="meta")
    batch = [
        Slice(sequence([1] * 9, [0, 1, 2]), 8, 9),
        Slice(sequence([1] * 9, [3, 4, 5]), 0, 9),
        Slice(sequence([1] * 9, [6, 7, 8]), 4, 9),
    ]
    assert [tuple(hidden.shape) for hidden in step(distant, cache, batch)] == [(1, 32), (9, 32), (5, 32)]
