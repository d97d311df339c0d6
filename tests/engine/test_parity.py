"""Real checkpoints answer as the reference libraries do: SmolLM2-135M-Instruct (both formats) and all-MiniLM-L6-v2."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from stretto.engine.attention import Packed
from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.config import LoadSpec
from stretto.engine.encoder import Encoder
from stretto.engine.errors import InvalidRequest
from stretto.engine.messages import Encode
from stretto.engine.models.loading import build
from stretto.engine.models.parts import Rows
from stretto.engine.requests import EmbedCall, Options, TextPrompt
from stretto.engine.rotary import Rotary
from stretto.engine.served import Served

CPU = torch.device("cpu")
PROMPTS = (
    "1, 2, 3, 4, 5,",
    "The capital of France is",
    "Once upon a time there was a small village by the sea, where",
    "def fibonacci(n):\n",
)
TEXTS = (
    "How do I reset my password?",
    "The quick brown fox jumps over the lazy dog. " * 20,
    "",
    "世界 – é 🦙",
    "A short one.",
)


@pytest.fixture(scope="module")
def tokenizer(smollm2_hf: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2_hf)


@pytest.fixture(scope="module")
def theirs(smollm2_hf: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(smollm2_hf, dtype=torch.float32)


@pytest.fixture(scope="module")
def ours(smollm2_hf: Path) -> Any:
    return build(open_checkpoint(smollm2_hf), dtype=torch.float32, device=CPU)


def logits_of(model: Any, texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    attend = Packed([len(text) for text in texts], CPU, Rotary())
    ids = torch.tensor([id_ for text in texts for id_ in text])
    with torch.inference_mode():
        hidden = model(Rows(ids=ids, positions=attend.positions), attend)
        return hidden, model.logits(hidden)


def their_greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """By their own `generate`, which an end of text does not end."""
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "max_new_tokens": count, "eos_token_id": -1, "pad_token_id": 0}
    with torch.inference_mode():
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return [int(id_) for id_ in whole[0, len(prompt) :]]


def test_hidden_states_and_logits_of_smollm2_are_those_of_transformers(tokenizer: Any, theirs: Any, ours: Any) -> None:
    texts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    with torch.inference_mode():
        said = [theirs(torch.tensor([text]), output_hidden_states=True) for text in texts]
    for text, wanted in zip(texts, said, strict=True):
        hidden, logits = logits_of(ours, [text])
        torch.testing.assert_close(logits, wanted.logits[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(hidden, wanted.hidden_states[-1][0], atol=1e-4, rtol=0)


def test_logits_of_smollm2_in_company_err_no_more_than_float32_does(tokenizer: Any, theirs: Any, ours: Any) -> None:
    """The first token's hidden state is in the thousands: two right float32 answers may be further apart than that."""
    texts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    exact = copy.deepcopy(theirs).double()
    with torch.inference_mode():
        said = torch.cat([exact(torch.tensor([text])).logits[0] for text in texts])
    _, logits = logits_of(ours, texts)
    torch.testing.assert_close(logits.double(), said, atol=2e-4, rtol=0)


def test_greedy_texts_of_smollm2_are_those_of_transformers_over_64_tokens(
    tokenizer: Any, theirs: Any, ours: Any, greedy: Callable[..., Any]
) -> None:
    """One by their `generate`; the others, faster, by asking what theirs would choose after each token of ours."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    texts = greedy(ours, prompts, 64)
    assert texts[0] == their_greedy(theirs, prompts[0], 64)
    for prompt, text in zip(prompts, texts, strict=True):
        with torch.inference_mode():
            chosen = theirs(torch.tensor([prompt + text])).logits[0].argmax(-1)
        assert text == chosen[len(prompt) - 1 : -1].tolist()


def test_the_gguf_of_smollm2_is_read_into_the_same_model(
    tokenizer: Any, theirs: Any, smollm2_gguf: Path, greedy: Callable[..., Any]
) -> None:
    """Heads in the file's order of rows, or in one that was changed twice, would give gibberish."""
    model: Any = build(open_checkpoint(smollm2_gguf), dtype=torch.float32, device=CPU)
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    _, logits = logits_of(model, [prompt])
    with torch.inference_mode():
        wanted = theirs(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
    assert tokenizer.decode(greedy(model, [prompt], 12)[0]) == " 6, 7, 8, 9,"


def test_vectors_of_minilm_are_those_of_sentence_transformers(minilm: Path) -> None:
    reference = SentenceTransformer(str(minilm), device="cpu")
    model: Any = build(open_checkpoint(minilm), dtype=torch.float32, device=CPU)
    texts = [
        Encode(
            id=1,
            index=index,
            model="m",
            ids=reference.tokenizer(text, truncation=True, max_length=256)["input_ids"],
            pooling="mean",
            normalize=True,
        )
        for index, text in enumerate(TEXTS)
    ]
    got = np.stack([np.frombuffer(vector, "<f4") for vector in Encoder(model, CPU).run(texts) if vector is not None])
    np.testing.assert_allclose(got, reference.encode(list(TEXTS)), atol=1e-5)
    alone = Encoder(model, CPU).run(texts[:1])[0]
    assert alone is not None
    np.testing.assert_allclose(np.frombuffer(alone, "<f4"), got[0], atol=1e-6)


def test_every_layer_of_minilm_is_that_of_transformers(minilm: Path) -> None:
    reference = AutoModel.from_pretrained(minilm)
    encoder = Encoder(build(open_checkpoint(minilm), dtype=torch.float32, device=CPU), CPU)
    ids = [101, 2129, 2079, 1045, 25141, 2026, 20786, 1029, 102]
    with torch.inference_mode():
        states = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states
    assert len(states) == 7
    texts = [
        Encode(id=1, index=layer, model="m", ids=ids, layer=layer, pooling="none", normalize=False)
        for layer in range(-7, 7)
    ]
    for text, vectors in zip(texts, encoder.run(texts), strict=True):
        assert vectors is not None
        got = np.frombuffer(vectors, "<f4").reshape(len(ids), -1)
        np.testing.assert_allclose(got, states[text.layer][0].numpy(), atol=1e-4)


def test_prompts_of_minilm_stand_before_its_texts_as_sentence_transformers_has_them(
    minilm: Path, tmp_path: Path
) -> None:
    for path in minilm.iterdir():
        (tmp_path / path.name).symlink_to(path)
    settings = tmp_path / "config_sentence_transformers.json"
    settings.unlink(missing_ok=True)
    settings.write_text('{"prompts": {"query": "Find: ", "passage": ""}, "default_prompt_name": "query"}')
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    encoder = Encoder(build(open_checkpoint(tmp_path), dtype=torch.float32, device=CPU), CPU)
    served = Served.open(LoadSpec(name="m", path=tmp_path, source="m"))

    def ours(**prompt: Any) -> Any:
        options = Options(request_id="r", received=0.0)
        call = EmbedCall(model="m", inputs=(TextPrompt(text=TEXTS[0]),), options=options, **prompt)
        rules = served.inputs.rules(call)
        (vector,) = encoder.run(served.inputs.messages(call, rules, 1, served.inputs.read(call, rules)))
        assert vector is not None
        return np.frombuffer(vector, "<f4")

    np.testing.assert_allclose(ours(), reference.encode(TEXTS[0]), atol=1e-5)
    np.testing.assert_allclose(ours(prompt_name="query"), reference.encode(TEXTS[0], prompt_name="query"), atol=1e-5)
    np.testing.assert_allclose(ours(prompt_name="passage"), reference.encode(TEXTS[0], prompt=""), atol=1e-5)
    np.testing.assert_allclose(ours(prompt_text="Say: "), reference.encode(TEXTS[0], prompt="Say: "), atol=1e-5)
    assert not np.allclose(ours(prompt_name="passage"), ours(), atol=1e-2)
    with pytest.raises(InvalidRequest, match="the prompts of m are: passage, query") as caught:
        ours(prompt_name="other")
    assert caught.value.field == "config.prompt_name"
