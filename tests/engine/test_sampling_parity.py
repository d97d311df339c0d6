"""SmolLM2 with every rule of SamplingConfig says what transformers' `generate` says: from the wishes to the tokens."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
)

from stretto.engine.cache.kv_cache import KVCache
from stretto.engine.config import LoadSpec
from stretto.engine.messages import Generate
from stretto.engine.models.loading import build
from stretto.engine.requests import GenerateCall, Options, Output, Stopping, TextPrompt
from stretto.engine.runner import Runner
from stretto.engine.sampling import Sampling
from stretto.engine.sequence import Sequence, Slice
from stretto.engine.served import Served

PROMPT = "1, 2, 3, 4, 5,"
COUNT = 8
GREEDY = {"temperature": 0.0}
SAID = {"do_sample": True, "temperature": 0.6, "top_k": 1, "top_p": 0.9, "repetition_penalty": 2.0}


@dataclass
class CountPenalties(LogitsProcessor):
    """Presence and frequency, which transformers does not have, in plain Python; of the answer only."""

    prompt: int
    presence: float = 0.0
    frequency: float = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for id_, count in Counter(input_ids[0, self.prompt :].tolist()).items():
            scores[0, id_] -= self.presence + self.frequency * count
        return scores


@dataclass
class LastOnly(LogitsProcessor):
    """A repetition penalty that looks at the last token only, by hand."""

    penalty: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = int(input_ids[0, -1])
        scores[0, last] = scores[0, last] / self.penalty if scores[0, last] > 0 else scores[0, last] * self.penalty
        return scores


class References:
    """What transformers says."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.prompt: list[int] = self.tokenizer(PROMPT)["input_ids"]

    def generate(self, *processors: LogitsProcessor, **settings: Any) -> list[int]:
        ids = torch.tensor([self.prompt])
        # A configuration of its own, so that nothing of the checkpoint's is mixed in.
        config = GenerationConfig(**{"do_sample": False, "max_new_tokens": COUNT, "pad_token_id": 0} | settings)
        with torch.inference_mode():
            said = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=LogitsProcessorList(processors),
            )
        return [int(id_) for id_ in said[0, len(self.prompt) :]]

    def ids(self, text: str) -> list[int]:
        return [int(id_) for id_ in self.tokenizer(text)["input_ids"]]


@pytest.fixture(scope="module")
def theirs(smollm2_hf: Path) -> References:
    return References(smollm2_hf)


def served(folder: Path) -> Served:
    return Served.open(LoadSpec(name="m", path=folder, source="m", dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def ours(smollm2_hf: Path) -> Served:
    return served(smollm2_hf)


@pytest.fixture(scope="module")
def model(ours: Served) -> Any:
    return build(ours.checkpoint, dtype=torch.float32, device=torch.device("cpu"))


def asked(served: Served, **wishes: Any) -> Generate:
    call = GenerateCall(
        model="m",
        prompt=TextPrompt(text=PROMPT),
        sampling=Sampling(**wishes),
        stopping=Stopping(max_tokens=COUNT),
        output=Output(),
        options=Options(request_id="r", received=time.monotonic()),
    )
    ids, _ = served.prompt(call)
    return served.generate_message(call, 1, ids)[0]


def answers(model: Any, limit_ids: int, requests: list[Generate]) -> list[list[int]]:
    """All of them in one batch, until each has its tokens or an end."""
    spec, each = model.specs[0], 4
    cache = KVCache(
        layers=len(model.specs),
        num_blocks=each * len(requests),
        block_size=16,
        key_heads=spec.key_heads,
        head_size=spec.head_size,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    runner = Runner(model, cache, limit_ids)
    sequences = [
        Sequence(request, 0, list(request.prompt), blocks=list(range(each * i, each * (i + 1))))
        for i, request in enumerate(requests)
    ]
    running = sequences
    while running:
        batch = [Slice(one, one.computed, len(one.tokens)) for one in running]
        for one, drawn in zip(running, runner.run(batch), strict=True):
            assert drawn is not None
            one.computed = len(one.tokens)
            one.tokens.append(drawn.token)
        running = [one for one in running if one.generated < COUNT and one.tokens[-1] not in one.request.stop_ids]
    return [one.tokens[len(one.request.prompt) :] for one in sequences]


def test_greedy_texts_under_every_rule_are_those_of_transformers(theirs: References, ours: Served, model: Any) -> None:
    """All of ours in one batch, so that none leaks into another."""
    prompt, space, end = len(theirs.prompt), theirs.ids(" ")[0], theirs.tokenizer.eos_token_id
    bad = [theirs.ids(way) for text in ("6,", "and so", "sum") for way in (text, " " + text)]
    few = [*theirs.ids(" 7 9 so and"), end]
    pairs: list[tuple[dict[str, Any], list[int]]] = [
        ({}, theirs.generate()),
        ({"repetition_penalty": 1.5}, theirs.generate(repetition_penalty=1.5)),
        ({"repetition_penalty": 1.5, "penalty_window": 1}, theirs.generate(LastOnly(1.5))),
        ({"presence_penalty": 2.0}, theirs.generate(CountPenalties(prompt, presence=2.0))),
        ({"frequency_penalty": 1.0}, theirs.generate(CountPenalties(prompt, frequency=1.0))),
        ({"presence_penalty": 2.0, "frequency_penalty": 2.0},
         theirs.generate(CountPenalties(prompt, presence=2.0, frequency=2.0))),
        ({"no_repeat_ngram_size": 2}, theirs.generate(no_repeat_ngram_size=2)),
        ({"logit_bias": {space: -6.0, 30: 2.0}}, theirs.generate(sequence_bias=[[[space], -6.0], [[30], 2.0]])),
        ({"logit_bias": {end: 100.0}}, [end]),
        ({"banned_token_ids": (space,)}, theirs.generate(suppress_tokens=[space])),
        ({"banned_strings": ("6,", "and so", "sum"), "repetition_penalty": 1.5},
         theirs.generate(bad_words_ids=bad, repetition_penalty=1.5)),
        ({"allowed_token_ids": tuple(few)},
         theirs.generate(PrefixConstrainedLogitsProcessor(lambda *_: few, num_beams=1))),
    ]  # fmt: skip
    got = answers(model, ours.limit_ids, [asked(ours, **GREEDY | wishes) for wishes, _ in pairs])
    for (wishes, wanted), tokens in zip(pairs, got, strict=True):
        assert tokens == wanted, wishes
    without, repeated, last, presence, frequency, *others = got
    assert last == presence == frequency == without, "only the repetition penalty counts the prompt, and all of it"
    assert without not in (repeated, *others)


def test_an_unset_wish_is_the_checkpoints_and_a_neutral_one_is_a_wish(
    theirs: References, ours: Served, model: Any, smollm2_hf: Path, tmp_path: Path
) -> None:
    for file in smollm2_hf.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    GenerationConfig(**SAID).save_pretrained(tmp_path)
    saying = served(tmp_path)
    assert saying.checkpoint.notes == ()
    neutral = {"top_k": 0, "temperature": 1.0, "repetition_penalty": 1.0, "top_p": 1.0, "seed": 7}
    requests = [
        asked(saying),
        asked(saying, **GREEDY, repetition_penalty=1.0),
        asked(saying, **neutral),
        asked(ours, temperature=1.0, seed=7),
    ]
    unset, plain, free, wanted = answers(model, ours.limit_ids, requests)
    assert unset == theirs.generate(**SAID)
    assert plain == theirs.generate()
    assert free == wanted
    assert free not in (unset, plain)
