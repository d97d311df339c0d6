"""Llama and what is built like it: RMS norms before, rotary positions, grouped heads, a gated MLP. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stretto.engine.errors import CheckpointError
from stretto.engine.families.rope import Rope, read_rope
from stretto.engine.families.weights import WeightMap


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    mlp_width: int
    norm_eps: float
    rope: Rope
    attention_bias: bool
    mlp_bias: bool
    tied: bool
    head: bool  # whether it predicts tokens (LlamaForCausalLM) or only encodes (LlamaModel)


def read(config: Mapping[str, Any], where: str) -> LlamaConfig:
    """Read a Hugging Face config.json; raises CheckpointError with what is missing or not supported."""
    try:
        heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
        head_size = int(config.get("head_dim") or width // heads)
        read_ = LlamaConfig(
            vocab_size=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            width=width,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_heads=heads if config.get("num_key_value_heads") is None else int(config["num_key_value_heads"]),
            head_size=head_size,
            mlp_width=int(config["intermediate_size"]),
            norm_eps=float(config["rms_norm_eps"]),
            rope=read_rope(config, head_size, where),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            tied=bool(config.get("tie_word_embeddings", False)),
            head="LlamaForCausalLM" in config["architectures"],
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{where} is not a whole Llama configuration: {error!r}") from error
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{where} asks for hidden_act {config['hidden_act']!r}; a Llama has silu.")
    if read_.key_heads < 1 or read_.heads % read_.key_heads:
        raise CheckpointError(f"{where}: {read_.heads} heads can't share {read_.key_heads} key heads evenly.")
    return read_


def weights(config: LlamaConfig) -> WeightMap:
    sources: dict[str, tuple[str, ...]] = {
        "embed.token.weight": ("model.embed_tokens.weight",),
        "norm.weight": ("model.norm.weight",),
    }
    if config.head:
        sources["head.weight"] = ("lm_head.weight",)
    for i in range(config.layers):
        theirs, ours = f"model.layers.{i}", f"blocks.{i}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        sources |= {
            f"{ours}.qkv.norm.weight": (f"{theirs}.input_layernorm.weight",),
            f"{ours}.qkv.weight": tuple(f"{attention}.{p}_proj.weight" for p in "qkv"),
            f"{ours}.out.weight": (f"{attention}.o_proj.weight",),
            f"{ours}.mlp.norm.weight": (f"{theirs}.post_attention_layernorm.weight",),
            f"{ours}.mlp.up.weight": (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"),
            f"{ours}.mlp.down.weight": (f"{mlp}.down_proj.weight",),
        }
        if config.attention_bias:
            sources[f"{ours}.qkv.bias"] = tuple(f"{attention}.{p}_proj.bias" for p in "qkv")
            sources[f"{ours}.out.bias"] = (f"{attention}.o_proj.bias",)
        if config.mlp_bias:
            sources[f"{ours}.mlp.up.bias"] = (f"{mlp}.gate_proj.bias", f"{mlp}.up_proj.bias")
            sources[f"{ours}.mlp.down.bias"] = (f"{mlp}.down_proj.bias",)
    return WeightMap(
        sources=sources,
        prefix="model.",
        unused=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
        tied={"head.weight": "embed.token.weight"} if config.head and config.tied else None,
    )


def gguf_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json out of a GGUF file's metadata, by llama.cpp's key names.

    Linear rope scaling is a key there. Llama 3.1's is a tensor, `rope_freqs.weight`: refused as one without a use.
    """
    heads = metadata["llama.attention.head_count"]
    width = metadata["llama.embedding_length"]
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": metadata.get("llama.vocab_size", len(metadata.get("tokenizer.ggml.tokens", ()))),
        "max_position_embeddings": metadata["llama.context_length"],
        "hidden_size": width,
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
        "head_dim": metadata.get("llama.attention.key_length", width // heads),
        "intermediate_size": metadata["llama.feed_forward_length"],
        "rms_norm_eps": metadata["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": metadata.get("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": True,  # where the file has an output.weight of its own, that one is used
    }
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        config["rope_scaling"] = {"rope_type": scaling, "factor": metadata.get("llama.rope.scaling.factor")}
    return config


def gguf_names(config: LlamaConfig) -> Mapping[str, str]:
    """From llama.cpp's tensor names to Hugging Face's."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    for i in range(config.layers):
        layer = f"model.layers.{i}"
        for theirs, ours in {
            "attn_norm": "input_layernorm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        }.items():
            names |= {f"blk.{i}.{theirs}.{kind}": f"{layer}.{ours}.{kind}" for kind in ("weight", "bias")}
    return names
