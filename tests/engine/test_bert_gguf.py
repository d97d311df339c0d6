"""A BERT out of a GGUF file is the BERT out of its safetensors: the same ids, and the same vectors within rounding."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from stretto.engine.checkpoint.headers import Checkpoint, open_checkpoint
from stretto.engine.encoder import Encoder
from stretto.engine.messages import Encode
from stretto.engine.models.loading import build
from stretto.engine.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = ["How do I reset my password?", "Kantō lǜshi, naïve café", "世界 – é 🦙 unaffable", "one two three " * 40]
NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
TOP = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def gguf_name(name: str) -> str | None:
    """llama.cpp's name of a tensor of BertModel; None for what it leaves out."""
    if not name.startswith("encoder.layer."):
        return TOP.get(name)
    layer, _, rest = name.removeprefix("encoder.layer.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[part]}.{kind}"


@pytest.fixture(scope="module", params=["F32", "Q8_0"])
def both(request: pytest.FixtureRequest, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """all-MiniLM-L6-v2 written with the `gguf` package, as llama.cpp's converter lays a BERT out."""
    config = json.loads((minilm / "config.json").read_text())
    path = tmp_path_factory.mktemp("gguf") / "minilm.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    pieces = (minilm / "vocab.txt").read_text().splitlines()
    control = [piece.startswith("[") and piece.endswith("]") and len(piece) > 2 for piece in pieces]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(
        [
            piece if special else piece[2:] if piece.startswith("##") else "\u2581" + piece
            for piece, special in zip(pieces, control, strict=True)
        ]
    )
    writer.add_token_types([3 if special else 1 for special in control])
    roles = {"cls": "[CLS]", "seperator": "[SEP]", "unknown": "[UNK]", "padding": "[PAD]"}  # as the format spells it
    for role, piece in roles.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", pieces.index(piece))
    for name, value in load_file(minilm / "model.safetensors").items():
        if (theirs := gguf_name(name)) is None:
            continue
        kind = request.param if value.ndim == 2 and "embeddings" not in name else "F32"
        quantized = gguf.quants.quantize(value, gguf.GGMLQuantizationType[kind])
        writer.add_tensor(theirs, quantized, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return request.param, path


def vectors(checkpoint: Checkpoint, tokenizer: Tokenizer) -> NDArray[np.float32]:
    device = torch.device("cpu")
    encoder = Encoder(build(checkpoint, dtype=torch.float32, device=device), device)
    ids = tokenizer.encode(TEXTS, add_special_tokens=True)
    made = encoder.run(
        [Encode(id=i, index=0, model="m", ids=text, pooling="mean", normalize=True) for i, text in enumerate(ids)]
    )
    return np.stack([np.frombuffer(vector or b"", "<f4") for vector in made])


def test_ids_and_vectors_are_those_of_the_directory(both: tuple[str, Path], minilm: Path) -> None:
    kind, path = both
    theirs, ours = open_checkpoint(minilm), open_checkpoint(path)
    assert ours.sentence.pooling == theirs.sentence.pooling
    assert (ours.width, ours.context, ours.parameter_count) == (theirs.width, theirs.context, theirs.parameter_count)
    read, wanted = load_tokenizer(ours), load_tokenizer(theirs)
    assert read.encode(TEXTS, add_special_tokens=True) == wanted.encode(TEXTS, add_special_tokens=True)
    made, expected = vectors(ours, read), vectors(theirs, wanted)
    if kind == "F32":
        np.testing.assert_allclose(made, expected, atol=1e-6)
    else:
        assert (made * expected).sum(-1).min() > 0.999
