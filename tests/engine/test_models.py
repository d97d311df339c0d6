"""Every family computes what transformers computes, from a checkpoint that it saved (tiny, seeded, float32)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from stretto.engine.attention import Attend, Causal, Packed
from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.models.loading import build
from stretto.engine.models.parts import Rows
from stretto.engine.rotary import Rotary

CPU = torch.device("cpu")
CONTEXT = 64
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LLAMAS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "a head for each": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "a head size of its own": {"head_dim": 16},
    "another theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "llama3 rope": {"rope_parameters": LLAMA3},
    "another eps": {"rms_norm_eps": 1e-2},
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Numbers that make every parameter matter: a fresh model's biases are 0 and its norms 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.3)
    model.train(False)
    return model


def tiny_llama(**changes: Any) -> PreTrainedModel:
    config = {"num_key_value_heads": 2, "tie_word_embeddings": False, "rms_norm_eps": 1e-5} | changes
    return randomised(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=96,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                **config,
            )
        )
    )


def tiny_bert(activation: str) -> PreTrainedModel:
    return randomised(
        BertModel(
            BertConfig(
                vocab_size=96,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                hidden_act=activation,
            ),
            add_pooling_layer=False,
        )
    )


def loaded(model: PreTrainedModel, folder: Path) -> Any:
    model.save_pretrained(folder)
    return build(open_checkpoint(folder), dtype=torch.float32, device=CPU)


def some_ids(*lengths: int) -> list[Tensor]:
    chance = torch.Generator().manual_seed(1)
    return [torch.randint(0, 96, (length,), generator=chance) for length in lengths]


def packed(texts: list[Tensor]) -> tuple[Rows, Attend]:
    attend = Packed([len(text) for text in texts], CPU, Rotary())
    return Rows(ids=torch.cat(texts), positions=attend.positions), attend


def causal(texts: list[Tensor]) -> tuple[Rows, Attend]:
    (text,) = texts
    return Rows(ids=text, positions=torch.arange(len(text))), Causal()


@pytest.mark.parametrize("way", [packed, causal])
@pytest.mark.parametrize("name", LLAMAS)
def test_a_llama_gives_the_hidden_states_and_logits_of_transformers(
    name: str, way: Callable[[list[Tensor]], tuple[Rows, Attend]], tmp_path: Path
) -> None:
    theirs = tiny_llama(**LLAMAS[name])
    ours = loaded(theirs, tmp_path)
    (ids,) = texts = some_ids(CONTEXT)
    with torch.inference_mode():
        said = theirs(ids[None], output_hidden_states=True)
        hidden = ours(*way(texts))
        logits = ours.logits(hidden)
    torch.testing.assert_close(hidden, said.hidden_states[-1][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, said.logits[0], atol=1e-4, rtol=0)
    assert said.logits.abs().max() > 1, "the comparison would be empty"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_bert_gives_the_hidden_states_of_transformers_with_padding(activation: str, tmp_path: Path) -> None:
    theirs = tiny_bert(activation)
    ours = loaded(theirs, tmp_path)
    texts = some_ids(7, 1, CONTEXT, 7, 20)
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    with torch.inference_mode():
        said = theirs(padded, attention_mask=mask).last_hidden_state
        hidden = ours(*packed(texts))
    torch.testing.assert_close(hidden, said[mask.bool()], atol=1e-4, rtol=0)


def test_segments_are_added_where_rows_have_them(tmp_path: Path) -> None:
    theirs = tiny_bert("gelu")
    ours = loaded(theirs, tmp_path)
    (ids,) = some_ids(10)
    types = torch.tensor([0] * 4 + [1] * 6)
    rows, attend = packed([ids])
    with torch.inference_mode():
        said = theirs(ids[None], token_type_ids=types[None]).last_hidden_state[0]
        hidden = ours(Rows(ids=rows.ids, positions=rows.positions, segments=types), attend)
    torch.testing.assert_close(hidden, said, atol=1e-4, rtol=0)


def test_a_batch_of_training_rows_gives_the_logits_of_transformers(tmp_path: Path) -> None:
    theirs = tiny_llama()
    ours = loaded(theirs, tmp_path)
    ids = torch.stack(some_ids(12, 12, 12))
    with torch.inference_mode():
        logits = ours.logits(ours(Rows(ids=ids, positions=torch.arange(12)), Causal()))
        torch.testing.assert_close(logits, theirs(ids).logits, atol=1e-4, rtol=0)


def test_a_tied_head_is_the_embedding_itself_and_an_untied_one_is_not(tmp_path: Path) -> None:
    tied = loaded(tiny_llama(tie_word_embeddings=True), tmp_path / "tied")
    own = loaded(tiny_llama(tie_word_embeddings=False), tmp_path / "own")
    assert tied.head.weight is tied.embed.token.weight
    assert own.head.weight is not own.embed.token.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_are_float32_and_near_when_the_weights_have_16_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = tiny_llama()
    theirs.save_pretrained(tmp_path)
    ours: Any = build(open_checkpoint(tmp_path), dtype=dtype, device=CPU)
    texts = some_ids(20)
    with torch.inference_mode():
        logits = ours.logits(ours(*packed(texts)))
        wanted = theirs(texts[0][None]).logits[0]
    assert logits.dtype is torch.float32
    assert torch.nn.functional.cosine_similarity(logits, wanted).min() > 0.99


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_model_makes_every_tensor_where_its_rows_are(family: str, tmp_path: Path) -> None:
    """The meta device stands for a GPU: an operator that met a tensor of the host's would raise."""
    meta = torch.device("meta")
    ours: Any = loaded(tiny_llama() if family == "llama" else tiny_bert("gelu"), tmp_path).to(meta)
    attend = Packed([3, 3, 8], meta, Rotary())
    with torch.inference_mode():
        hidden = ours(Rows(ids=torch.zeros(14, dtype=torch.int64, device=meta), positions=attend.positions), attend)
    assert hidden.shape == (14, 32)
    assert hidden.device == meta
