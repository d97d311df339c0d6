"""A step draws for the slices that sample, and for no others; what is asked of a sequence holds for its row alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from stretto.engine.attention import Causal
from stretto.engine.cache.kv_cache import KVCache
from stretto.engine.families.llama import LlamaConfig
from stretto.engine.families.rope import Rope
from stretto.engine.messages import Draw, Generate
from stretto.engine.models.llama import Llama
from stretto.engine.models.parts import Rows
from stretto.engine.runner import Runner
from stretto.engine.sequence import Drawn, Sequence, Slice

CONFIG = LlamaConfig(
    vocab_size=96,
    context=64,
    width=32,
    layers=2,
    heads=4,
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
GREEDY = Draw(temperature=0)
PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [90, 91]]


@pytest.fixture(scope="module")
def model() -> Llama:
    torch.manual_seed(0)
    model = Llama(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(3.0)  # so that the choices are clear
    return model


def runner_of(model: Llama, limit_ids: int = 96) -> Runner:
    cache = KVCache(
        layers=2,
        num_blocks=64,
        block_size=4,
        key_heads=2,
        head_size=8,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return Runner(model, cache, limit_ids)


def asked(prompt: list[int], **wishes: object) -> Generate:
    wishes = {"draw": GREEDY, "max_tokens": 8} | wishes
    return Generate(id=1, model="m", prompt=prompt, **wishes)  # type: ignore[arg-type]


def sequences_of(requests: list[Generate]) -> list[Sequence]:
    return [
        Sequence(request=request, candidate=0, tokens=list(request.prompt), blocks=list(range(8 * i, 8 * i + 8)))
        for i, request in enumerate(requests)
    ]


def finish(runner: Runner, sequences: list[Sequence], count: int) -> list[list[int]]:
    """`count` tokens of each, all in every step."""
    for _ in range(count):
        batch = [Slice(one, one.computed, len(one.tokens)) for one in sequences]
        for one, drawn in zip(sequences, runner.run(batch), strict=True):
            assert drawn is not None
            one.computed = len(one.tokens)
            one.tokens.append(drawn.token)
    return [one.tokens[len(one.request.prompt) :] for one in sequences]


def greedy_plainly(model: Llama, prompt: list[int], count: int, limit_ids: int = 96) -> list[int]:
    """The whole text again for every token."""
    tokens = list(prompt)
    for _ in range(count):
        hidden = model(Rows(ids=torch.tensor(tokens), positions=torch.arange(len(tokens))), Causal())
        tokens.append(int(model.logits(hidden)[-1, :limit_ids].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("limit_ids", [96, 40])
def test_greedy_texts_of_a_batch_are_those_of_each_prompt_alone(model: Llama, limit_ids: int) -> None:
    got = finish(runner_of(model, limit_ids), sequences_of([asked(prompt) for prompt in PROMPTS]), 8)
    assert got == [greedy_plainly(model, prompt, 8, limit_ids) for prompt in PROMPTS]


def test_ids_that_no_text_has_are_never_drawn_or_told(model: Llama) -> None:
    draw = Draw(temperature=50.0, seed=3)
    requests = [asked(prompt, draw=draw, top=20, also=[30, 70]) for prompt in PROMPTS]
    sequences = sequences_of(requests)
    batch = [Slice(one, 0, len(one.tokens)) for one in sequences]
    for drawn in runner_of(model, 40).run(batch):
        assert drawn is not None
        assert all(id_ < 40 for id_ in (drawn.token, *(id_ for id_, _ in drawn.top)))
        assert drawn.also[0] > drawn.also[1] == -float("inf")


def test_a_slice_that_does_not_reach_the_end_draws_nothing(model: Llama) -> None:
    runner = runner_of(model)
    first, second, third = sequences_of([asked(PROMPTS[2]), asked(PROMPTS[0]), asked(PROMPTS[0], max_tokens=0)])
    drawn = runner.run([Slice(first, 0, 4), Slice(second, 0, 3), Slice(third, 0, 3)])
    assert [one is None for one in drawn] == [True, False, True]
    assert runner.run([Slice(first, 4, 6)]) == [None]
    (last,) = runner.run([Slice(first, 6, 10)])
    assert last is not None
    assert last.token == greedy_plainly(model, PROMPTS[2], 1)[0]


def test_stop_ids_are_banned_until_there_are_enough_tokens(model: Llama) -> None:
    """Whatever the text without a ban begins with is made a stop id; the ban ends after three tokens."""
    wanted = greedy_plainly(model, PROMPTS[0], 1)[0]
    request = asked(PROMPTS[0], min_tokens=3, stop_ids=[wanted, 95])
    (got,) = finish(runner_of(model), sequences_of([request]), 3)
    assert not {wanted, 95} & set(got)
    everything = asked(PROMPTS[0], min_tokens=3, stop_ids=[id_ for id_ in range(96) if id_ != 7])
    (only,) = finish(runner_of(model), sequences_of([everything]), 5)
    assert only[:3] == [7, 7, 7]
    assert only[3:] == greedy_plainly(model, [*PROMPTS[0], 7, 7, 7], 2)


def test_a_broken_sequence_is_told_apart_and_its_neighbours_answer_as_ever(model: Llama) -> None:
    runner = runner_of(model)
    sequences = sequences_of([asked(prompt) for prompt in PROMPTS])
    before = finish(runner, sequences, 1)
    runner._cache.values[:, 4 * sequences[1].blocks[0]] = torch.nan  # its first token, in every layer
    drawn = runner.run([Slice(one, one.computed, len(one.tokens)) for one in sequences])
    assert [one is not None and one.healthy for one in drawn] == [True, False, True, True]
    for index in (0, 2, 3):
        one = drawn[index]
        assert one is not None
        assert [*before[index], one.token] == greedy_plainly(model, PROMPTS[index], 2)


def test_a_draw_does_not_depend_on_how_the_prompt_was_cut(model: Llama) -> None:
    request = asked(PROMPTS[2], draw=Draw(temperature=20.0, seed=11), top=4)
    results: list[Drawn] = []
    for cuts in ([0, 10], [0, 3, 10], [0, 9, 10]):
        runner = runner_of(model)
        (sequence,) = sequences_of([request])
        for start, stop in pairwise(cuts):
            (drawn,) = runner.run([Slice(sequence, start, stop)])
        assert drawn is not None
        results.append(
            replace(drawn, logprob=round(drawn.logprob, 4), top=[(id_, round(p, 4)) for id_, p in drawn.top])
        )
    assert results[0] == results[1] == results[2]
