"""What other servers are known to get wrong without an error, on a real server and against the reference libraries."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tokenizers
import torch
from google.protobuf import json_format
from sentence_transformers import SentenceTransformer
from tokenizers import models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from stretto import client as stretto
from stretto.client import Client
from stretto.v1 import generation_pb2, generation_pb2_grpc

COUNTING = "1, 2, 3, 4, 5,"
WORDS, IDS, PROMPT = 90, 96, [5, 41, 7, 23, 60, 11]
TIED, BEYOND = (33, 40, 41), 92  # the likeliest words after PROMPT, all alike; and an id without a word, likelier still


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A server with tiny models, and the model of transformers that two of them are."""

    client: Client
    theirs: LlamaForCausalLM
    ends: list[int]


def greedy(model: LlamaForCausalLM, count: int, **more: Any) -> list[int]:
    """What transformers says after PROMPT, of the ids that have a word."""
    answer = model.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT)),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        suppress_tokens=list(range(WORDS, IDS)),
        **more,
    )
    return [int(token) for token in answer[0, len(PROMPT) :]]


def save(model: LlamaForCausalLM, folder: Path, **generation: Any) -> str:
    model.save_pretrained(folder)
    library = tokenizers.Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return f"{folder.name}={folder}"


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=IDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, minilm: Path, start_shared_server: Callable[..., Any]
) -> Iterator[Tiny]:
    place = tmp_path_factory.mktemp("known")
    plain, tied = model(1), model(2)
    with torch.no_grad():
        last = tied.model(torch.tensor([PROMPT])).last_hidden_state[0, -1]
        for word in TIED:
            tied.lm_head.weight[word] = 2 * last
        tied.lm_head.weight[BEYOND] = 4 * last
    said = greedy(plain, 8)
    ends = [said[3], 88]
    prompted = shutil.copytree(minilm, place / "prompted")
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}
    (prompted / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    server = start_shared_server(
        save(plain, place / "plain"),
        save(plain, place / "ending", eos_token_id=[88, said[3]]),
        save(plain, place / "settled", do_sample=True, temperature=0.6, top_k=1, top_p=0.9),
        save(tied, place / "tied"),
        f"prompted={prompted}",
        *("--cache-memory", "4MB"),
    )
    with Client(server.target) as client:
        yield Tiny(client=client, theirs=plain, ends=ends)


def ask(tiny: Tiny, name: str, **wishes: Any) -> list[int]:
    wishes = {"max_tokens": 8, "temperature": 0} | wishes
    return list(tiny.client.generate(PROMPT, model=name, **wishes).token_ids)


# Sampling


def test_of_words_exactly_alike_the_first_is_chosen_and_top_k_keeps_no_more_than_k(tiny: Tiny) -> None:
    assert ask(tiny, "tied", max_tokens=1) == [TIED[0]]
    assert {ask(tiny, "tied", max_tokens=1, temperature=1, top_k=1, seed=s)[0] for s in range(30)} == {TIED[0]}
    two = {ask(tiny, "tied", max_tokens=1, temperature=1, top_k=2, seed=s)[0] for s in range(60)}
    assert two == set(TIED[:2])


def test_an_id_without_a_word_is_read_and_never_written(tiny: Tiny) -> None:
    answers = [ask(tiny, "tied", temperature=2, seed=seed) for seed in range(20)]
    assert all(token < WORDS for answer in answers for token in answer)
    (first, *_) = tiny.client.generate(PROMPT, model="tied", max_tokens=1, top_logprobs=20).candidates[0].logprobs
    assert all(entry.token_id < WORDS for entry in first.top)
    assert tiny.client.generate([5, BEYOND], model="tied", max_tokens=1).usage.prompt_tokens == 2
    with pytest.raises(stretto.InvalidRequest, match="token_ids holds 96; ids go from 0 to 95") as caught:
        tiny.client.generate([5, IDS], model="tied", max_tokens=1)
    assert caught.value.reason == "BAD_TOKEN_ID"


def test_what_nobody_says_is_the_checkpoints_and_what_is_said_wins_though_it_is_neutral(tiny: Tiny) -> None:
    settled = {tuple(ask(tiny, "settled", temperature=None, seed=seed)) for seed in range(5)}
    assert settled == {tuple(greedy(tiny.theirs, 8))}
    wild = {tuple(ask(tiny, "settled", temperature=1, top_k=0, top_p=1.0, seed=seed)) for seed in range(20)}
    assert len(wild) > 1
    assert ask(tiny, "settled", temperature=0, top_k=0) == greedy(tiny.theirs, 8)


def weighed(tiny: Tiny, prompt: list[int], count: int, name: str = "plain", **sampling: Any) -> list[int]:
    """A greedy answer by the wire: with what changes the weights of words."""
    asked = {
        "model": name,
        "token_ids": {"ids": prompt},
        "config": {"sampling": {"temperature": 0} | sampling, "stopping": {"max_tokens": count}},
    }
    request = json_format.ParseDict(asked, generation_pb2.GenerateRequest())
    request.config.output.include_token_ids = True
    with grpc.insecure_channel(tiny.client.target) as channel:
        return list(generation_pb2_grpc.GenerationServiceStub(channel).Generate(request).candidates[0].token_ids)


def would_be_penalised(model: LlamaForCausalLM, prompt: list[int]) -> bool:
    """Whether the likeliest word stands in the prompt, and would not be the likeliest if that counted."""
    with torch.no_grad():
        best, second = model(torch.tensor([prompt])).logits[0, -1, :WORDS].topk(2)[0].tolist()
        word = int(model(torch.tensor([prompt])).logits[0, -1, :WORDS].argmax())
    return word in prompt and best - second < 1.9


def test_a_repetition_penalty_sees_the_prompt_and_the_others_see_the_answer_alone(tiny: Tiny) -> None:
    penalised = greedy(tiny.theirs, 8, repetition_penalty=1.5)
    assert weighed(tiny, PROMPT, 8, repetition_penalty=1.5) == penalised != greedy(tiny.theirs, 8)
    prompt = next(prompt for word in range(WORDS) if would_be_penalised(tiny.theirs, prompt := [word, *PROMPT]))
    plain = weighed(tiny, prompt, 1)
    assert plain[0] in prompt
    assert weighed(tiny, prompt, 1, frequency_penalty=2.0) == plain == weighed(tiny, prompt, 1, presence_penalty=2.0)


def test_a_bias_can_make_an_end_token_the_answer(tiny: Tiny) -> None:
    assert weighed(tiny, PROMPT, 5, "ending", logit_bias={tiny.ends[1]: 100.0}) == [tiny.ends[1]]


# Stopping


def test_every_end_token_ends_an_answer_and_none_does_where_they_are_ignored(tiny: Tiny) -> None:
    ended = tiny.client.generate(PROMPT, model="ending", temperature=0, max_tokens=8)
    assert list(ended.token_ids) == greedy(tiny.theirs, 8, eos_token_id=tiny.ends)
    assert ended.token_ids[-1] == tiny.ends[0]
    assert ended.finish_reason == "eos_token"
    assert ask(tiny, "ending", ignore_eos=True) == greedy(tiny.theirs, 8)
    assert ask(tiny, "plain") == greedy(tiny.theirs, 8)


def test_min_tokens_counts_the_answer_and_bans_every_end_token_and_nothing_else(tiny: Tiny) -> None:
    assert ask(tiny, "ending", max_tokens=12, min_tokens=7) == greedy(
        tiny.theirs, 12, min_new_tokens=7, eos_token_id=tiny.ends
    )
    plain, held = (
        tiny.client.generate(PROMPT, model="ending", temperature=0, max_tokens=1, top_logprobs=20, **more)
        for more in ({}, {"min_tokens": 1})
    )
    assert held.candidates[0].logprobs == plain.candidates[0].logprobs


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


def test_a_stop_string_is_looked_for_in_the_answer_alone(client: Client) -> None:
    unstopped = " 6, 7, 8, 9, 10, 11, 12,"
    across = client.generate(COUNTING, temperature=0, max_tokens=24, stop=[", 6"])
    assert (across.text, across.finish_reason) == (unstopped, "max_tokens")
    echoed = client.generate(COUNTING, temperature=0, max_tokens=24, stop=["1, 2"], echo=True)
    assert (echoed.text, echoed.finish_reason) == (COUNTING + unstopped, "max_tokens")


# Detokenising


def test_characters_of_several_tokens_arrive_whole_token_by_token(client: Client) -> None:
    prompt = " ".join(["\U0001f999\U0001f30d\u00e9\u4e16\u754c"] * 4)
    pieces = list(client.stream(prompt, temperature=0, max_tokens=16, ignore_eos=True))
    whole = client.generate(prompt, temperature=0, max_tokens=16, ignore_eos=True)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert whole.text.startswith(" \U0001f999")
    assert not any("\ufffd" in piece.text for piece in pieces[:-1])


# Vectors


def test_named_prompts_stand_before_a_text_as_in_sentence_transformers(tiny: Tiny, minilm: Path) -> None:
    text, reference = "How do I reset my password?", SentenceTransformer(str(minilm), device="cpu")

    def embedded(**more: Any) -> Any:
        return tiny.client.embed([text], model="prompted", **more)[0]

    for prompt, more in {"query: ": {}, "passage: ": {"prompt_name": "passage"}, "": {"prompt_text": ""}}.items():
        np.testing.assert_allclose(embedded(**more).vector, reference.encode(prompt + text), atol=1e-5)
    assert embedded().input.token_count == 11
    np.testing.assert_array_equal(embedded().vector, embedded(prompt_name="query").vector)
    with pytest.raises(stretto.InvalidRequest, match="the prompts of prompted are: passage, query"):
        embedded(prompt_name="document")


@pytest.mark.parametrize(("policy", "kept"), [("end", slice(0, 254)), ("start", slice(-254, None))])
def test_a_text_that_is_cut_keeps_both_special_tokens(client: Client, minilm: Path, policy: Any, kept: slice) -> None:
    text, reference = " ".join(f"w{i}" for i in range(200)), SentenceTransformer(str(minilm), device="cpu")
    ids = reference.tokenizer(text, truncation=False)["input_ids"]
    cut = torch.tensor([[ids[0], *ids[1:-1][kept], ids[-1]]])
    wanted = reference({"input_ids": cut, "attention_mask": torch.ones_like(cut)})["sentence_embedding"][0]
    (result,) = client.embed([text], truncate=policy)
    np.testing.assert_allclose(result.vector, wanted.detach().numpy(), atol=1e-5)
    assert (result.input.token_count, result.input.truncated_tokens) == (256, len(ids) - 256)
