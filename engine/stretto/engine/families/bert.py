"""BERT and its sentence encoders: learned positions and segments, norms after each residual. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stretto.engine.errors import CheckpointError
from stretto.engine.families.weights import WeightMap

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    vocab_size: int
    context: int
    num_segments: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    norm_eps: float
    activation: str

    @property
    def head_size(self) -> int:
        return self.width // self.heads


def read(config: Mapping[str, Any], where: str) -> BertConfig:
    """Read a Hugging Face config.json; raises CheckpointError with what is missing or not supported."""
    try:
        read_ = BertConfig(
            vocab_size=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            num_segments=int(config.get("type_vocab_size", 2)),
            width=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            mlp_width=int(config["intermediate_size"]),
            norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            activation=str(config.get("hidden_act", "gelu")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where} is not a whole BERT configuration: {error!r}") from error
    if read_.activation not in ACTIVATIONS:
        raise CheckpointError(f"{where} asks for hidden_act {read_.activation!r}; known: {', '.join(ACTIVATIONS)}.")
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise CheckpointError(f"{where} asks for position_embedding_type {positions!r}; stretto has absolute.")
    if config.get("is_decoder"):
        raise CheckpointError(f"{where} says is_decoder: stretto runs BERT both ways only.")
    if read_.width % read_.heads:
        raise CheckpointError(f"{where}: width {read_.width} can't be cut into {read_.heads} heads.")
    return read_


def weights(config: BertConfig) -> WeightMap:
    table = "bert.embeddings"
    sources: dict[str, tuple[str, ...]] = {
        "embed.token.weight": (f"{table}.word_embeddings.weight",),
        "embed.position.weight": (f"{table}.position_embeddings.weight",),
        "embed.segment.weight": (f"{table}.token_type_embeddings.weight",),
    }
    pairs = {"embed.norm": f"{table}.LayerNorm"}
    for i in range(config.layers):
        theirs, ours = f"bert.encoder.layer.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            sources[f"{ours}.qkv.{kind}"] = tuple(
                f"{theirs}.attention.self.{p}.{kind}" for p in ("query", "key", "value")
            )
        pairs |= {
            f"{ours}.out": f"{theirs}.attention.output.dense",
            f"{ours}.out.outer_norm": f"{theirs}.attention.output.LayerNorm",
            f"{ours}.mlp.up": f"{theirs}.intermediate.dense",
            f"{ours}.mlp.down": f"{theirs}.output.dense",
            f"{ours}.mlp.outer_norm": f"{theirs}.output.LayerNorm",
        }
    for mine, name in pairs.items():
        sources |= {f"{mine}.{kind}": (f"{name}.{kind}",) for kind in ("weight", "bias")}
    return WeightMap(
        sources=sources,
        prefix="bert.",
        unused=(r"bert\.embeddings\.position_ids", r"bert\.pooler\.dense\.(weight|bias)"),
        renamed=((".gamma", ".weight"), (".beta", ".bias")),
    )


def gguf_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json out of a GGUF file's metadata, by llama.cpp's key names."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": metadata.get("bert.vocab_size", len(metadata.get("tokenizer.ggml.tokens", ()))),
        "max_position_embeddings": metadata["bert.context_length"],
        "type_vocab_size": metadata.get("tokenizer.ggml.token_type_count", 2),
        "hidden_size": metadata["bert.embedding_length"],
        "num_hidden_layers": metadata["bert.block_count"],
        "num_attention_heads": metadata["bert.attention.head_count"],
        "intermediate_size": metadata["bert.feed_forward_length"],
        "layer_norm_eps": metadata["bert.attention.layer_norm_epsilon"],
        "hidden_act": "gelu",
    }


def gguf_names(config: BertConfig) -> Mapping[str, str]:
    """From llama.cpp's tensor names to Hugging Face's."""
    names = {
        "token_embd.weight": "bert.embeddings.word_embeddings.weight",
        "position_embd.weight": "bert.embeddings.position_embeddings.weight",
        "token_types.weight": "bert.embeddings.token_type_embeddings.weight",
        "token_embd_norm.weight": "bert.embeddings.LayerNorm.weight",
        "token_embd_norm.bias": "bert.embeddings.LayerNorm.bias",
    }
    for i in range(config.layers):
        layer = f"bert.encoder.layer.{i}"
        for theirs, ours in {
            "attn_q": "attention.self.query",
            "attn_k": "attention.self.key",
            "attn_v": "attention.self.value",
            "attn_output": "attention.output.dense",
            "attn_output_norm": "attention.output.LayerNorm",
            "ffn_up": "intermediate.dense",
            "ffn_down": "output.dense",
            "layer_output_norm": "output.LayerNorm",
        }.items():
            names |= {f"blk.{i}.{theirs}.{kind}": f"{layer}.{ours}.{kind}" for kind in ("weight", "bias")}
    return names
