"""Small checkpoints written by other people's libraries, models of bare parameters, and damage to files."""

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from stretto.engine.checkpoint.headers import Checkpoint

HUGE = (0, 1, 0x7F, 0xFF, 1 << 16, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
LAYERS, WIDTH, HEADS, KEY_HEADS, MLP, WORDS = 2, 32, 4, 2, 64, 96


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A Hugging Face directory of a tiny Llama with a head of its own, saved by transformers."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A Hugging Face directory of a tiny BERT, saved by transformers."""
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny Llama in GGUF with the `gguf` library, its matrices quantised as asked."""

    def write(kind: str = "F32", *, head: bool = False, name: str = "tiny.gguf", extra: str = "") -> Path:
        random_ = np.random.default_rng(3)
        writer = GGUFWriter(tmp_path / name, "llama")
        writer.add_block_count(LAYERS)
        writer.add_context_length(64)
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(MLP)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KEY_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([f"word{i} é" for i in range(WORDS)])
        writer.add_token_types([1] * WORDS)
        writer.add_add_bos_token(True)
        writer.add_chat_template("{{ messages }}")
        writer.add_string("tokenizer.chat_template.tools", "{{ tools }}")
        shapes = {"token_embd.weight": (WORDS, WIDTH), "output_norm.weight": (WIDTH,)}
        if head:
            shapes["output.weight"] = (WORDS, WIDTH)
        if extra:
            shapes[extra] = (4, WIDTH)
        for i in range(LAYERS):
            shapes |= {
                f"blk.{i}.attn_norm.weight": (WIDTH,),
                f"blk.{i}.attn_q.weight": (WIDTH, WIDTH),
                f"blk.{i}.attn_k.weight": (WIDTH * KEY_HEADS // HEADS, WIDTH),
                f"blk.{i}.attn_v.weight": (WIDTH * KEY_HEADS // HEADS, WIDTH),
                f"blk.{i}.attn_output.weight": (WIDTH, WIDTH),
                f"blk.{i}.ffn_norm.weight": (WIDTH,),
                f"blk.{i}.ffn_gate.weight": (MLP, WIDTH),
                f"blk.{i}.ffn_up.weight": (MLP, WIDTH),
                f"blk.{i}.ffn_down.weight": (WIDTH, MLP),
            }
        for tensor, shape in shapes.items():
            values = random_.standard_normal(shape, dtype=np.float32)
            as_ = GGMLQuantizationType["F32" if len(shape) == 1 else kind]
            writer.add_tensor(tensor, quantize(values, as_), raw_dtype=as_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return write


@pytest.fixture
def bare() -> Callable[[Checkpoint], nn.Module]:
    """Makes a module that has a checkpoint's parameters on the meta device, and nothing else."""

    def build(checkpoint: Checkpoint) -> nn.Module:
        map_ = checkpoint.family.weights(checkpoint.config)
        root = nn.Module()
        for name, sources in map_.sources.items():
            partner = (map_.tied or {}).get(name)
            held = sources if sources[0] in checkpoint.tensors or partner is None else map_.sources[partner]
            shapes = [checkpoint.tensors[source].shape for source in held]
            place = root
            *path, leaf = name.split(".")
            for part in path:
                place = place._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
            shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            place.register_parameter(leaf, nn.Parameter(torch.empty(shape, device="meta")))
        return root

    return build


@pytest.fixture
def damaged() -> Callable[[bytes, int, int], Iterator[tuple[str, bytes]]]:
    """Walks over seeded damage to a file: cut short, bits flipped, numbers blown up, pieces moved, lost or doubled."""

    def walk(whole: bytes, count: int, header: int) -> Iterator[tuple[str, bytes]]:
        chance = random.Random(4)
        for i in range(count):
            data = bytearray(whole)
            kind = chance.choice(("cut", "flip", "number", "number32", "lose", "double", "noise"))
            at = chance.randrange(header if chance.random() < 0.9 else len(data))
            if kind == "cut":
                del data[at:]
            elif kind == "flip":
                for _ in range(chance.randint(1, 8)):
                    data[chance.randrange(header)] ^= 1 << chance.randrange(8)
            elif kind == "number":
                data[at : at + 8] = struct.pack("<Q", chance.choice(HUGE))
            elif kind == "number32":
                data[at : at + 4] = struct.pack("<I", chance.choice(HUGE) & 0xFFFFFFFF)
            elif kind == "lose":
                del data[at : at + chance.randint(1, 64)]
            elif kind == "double":
                data[at:at] = data[at : at + chance.randint(1, 64)]
            else:
                data[at : at + 16] = chance.randbytes(16)
            yield f"{i}: {kind} at {at}", bytes(data)

    return walk
