"""Proves that a model gets exactly the weights that transformers reads, or a refusal that names what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from stretto.engine.checkpoint.headers import Checkpoint, open_checkpoint
from stretto.engine.checkpoint.weights import load_weights
from stretto.engine.errors import CheckpointError

Bare = Callable[[Checkpoint], nn.Module]
Write = Callable[..., Path]
CPU = torch.device("cpu")


def stacked(checkpoint: Checkpoint, theirs: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Our parameters, made the plain way from somebody else's tensors."""
    sources = checkpoint.family.weights(checkpoint.config).sources
    return {
        name: torch.cat([theirs[source.removeprefix(prefix)] for source in parts]) for name, parts in sources.items()
    }


def filled(checkpoint: Checkpoint, bare: Bare, dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    model = bare(checkpoint)
    load_weights(model, checkpoint, dtype=dtype, device=CPU)
    return dict(model.named_parameters(remove_duplicate=False))


def check_equal(got: dict[str, nn.Parameter], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].equal(value), name


def test_a_real_gguf_file_gives_the_weights_that_transformers_reads(
    smollm2_gguf: Path, smollm2_hf: Path, bare: Bare
) -> None:
    checkpoint = open_checkpoint(smollm2_gguf)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2_hf, dtype=torch.float32).state_dict()
    check_equal(filled(checkpoint, bare), stacked(checkpoint, theirs))


def test_real_files_of_safetensors_give_the_weights_that_transformers_reads(
    smollm2_sharded: Path, minilm: Path, bare: Bare
) -> None:
    checkpoint = open_checkpoint(smollm2_sharded)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2_sharded, dtype=torch.float32).state_dict()
    check_equal(filled(checkpoint, bare), stacked(checkpoint, theirs))
    checkpoint = open_checkpoint(minilm)
    theirs = AutoModel.from_pretrained(minilm).state_dict()
    check_equal(filled(checkpoint, bare), stacked(checkpoint, theirs, "bert."))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_cast_once_to_what_is_asked(write_gguf: Write, bare: Bare, dtype: torch.dtype) -> None:
    checkpoint = open_checkpoint(write_gguf("Q4_0"))
    wide, narrow = filled(checkpoint, bare), filled(checkpoint, bare, dtype)
    check_equal(narrow, {name: value.to(dtype) for name, value in wide.items()})


def test_tied_parameters_share_memory(write_gguf: Write, bare: Bare) -> None:
    tied = filled(open_checkpoint(write_gguf()), bare)
    assert tied["head.weight"] is tied["embed.token.weight"]
    own = filled(open_checkpoint(write_gguf(head=True)), bare)
    assert not own["head.weight"].equal(own["embed.token.weight"])


def test_the_files_own_head_wins_over_tying_and_an_equal_copy_is_shared(llama: Path, bare: Bare) -> None:
    text = (llama / "config.json").read_text()
    (llama / "config.json").write_text(text.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    weights = load_file(llama / "model.safetensors")
    checkpoint = open_checkpoint(llama)
    assert checkpoint.config.tied  # type: ignore[union-attr]
    check_equal(filled(checkpoint, bare), stacked(checkpoint, weights))
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, llama / "model.safetensors")
    equal = filled(open_checkpoint(llama), bare)
    assert equal["head.weight"] is equal["embed.token.weight"]


def refused(folder: Path, bare: Bare, model_of: Checkpoint) -> str:
    """The refusal to load a checkpoint into a model, which stays as it was."""
    model = bare(model_of)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, open_checkpoint(folder), dtype=torch.float32, device=CPU)
    assert all(parameter.is_meta for parameter in model.parameters())
    return caught.value.message


def test_a_missing_tensor_is_named(llama: Path, bare: Bare) -> None:
    whole, weights = open_checkpoint(llama), load_file(llama / "model.safetensors")
    del weights["model.layers.1.self_attn.k_proj.weight"], weights["lm_head.weight"]
    save_file(weights, llama / "model.safetensors")
    message = refused(llama, bare, whole)
    assert f"{llama} does not hold what llama/config.json describes." in message
    assert "2 tensors are missing: lm_head.weight; model.layers.1.self_attn.k_proj.weight." in message


def test_a_tensor_without_use_is_named_with_its_shape(llama: Path, write_gguf: Write, bare: Bare) -> None:
    whole, weights = open_checkpoint(llama), load_file(llama / "model.safetensors")
    save_file(weights | {f"model.extra{i}": torch.ones(2, 3) for i in range(11)}, llama / "model.safetensors")
    message = refused(llama, bare, whole)
    assert "11 tensors are not used by a LlamaForCausalLM: model.extra0 [2, 3]; model.extra1 [2, 3]" in message
    assert "and 3 more." in message
    scaled = write_gguf(extra="rope_freqs.weight")
    assert "not used by a LlamaForCausalLM: rope_freqs.weight [4, 32]" in refused(scaled, bare, open_checkpoint(scaled))


def test_a_tensor_of_another_shape_is_named_with_both(llama: Path, bare: Bare) -> None:
    whole, weights = open_checkpoint(llama), load_file(llama / "model.safetensors")
    weights["model.layers.0.self_attn.k_proj.weight"] = torch.ones(15, 32)
    weights["model.norm.weight"] = torch.ones(1, 32)
    save_file(weights, llama / "model.safetensors")
    message = refused(llama, bare, whole)
    assert "2 parameters do not fit the configuration" in message
    assert "[32, 32] and [15, 32] and [16, 32], which should make [64, 32]" in message
    assert "model.norm.weight [1, 32], which should make [32]" in message


def test_a_tensor_of_whole_numbers_is_no_weight(llama: Path, bare: Bare) -> None:
    whole, weights = open_checkpoint(llama), load_file(llama / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(32, dtype=torch.int64)
    save_file(weights, llama / "model.safetensors")
    assert "model.norm.weight is I64" in refused(llama, bare, whole)


def test_a_file_that_became_shorter_is_refused(llama: Path, bare: Bare) -> None:
    checkpoint = open_checkpoint(llama)
    model = bare(checkpoint)
    with (llama / "model.safetensors").open("r+b") as file:
        file.truncate(checkpoint.weight_bytes // 2)
    with pytest.raises(CheckpointError, match="became shorter"):
        load_weights(model, checkpoint, dtype=torch.float32, device=CPU)
    (llama / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        load_weights(model, checkpoint, dtype=torch.float32, device=CPU)
