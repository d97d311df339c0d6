"""A family more is a file and a line: GPT-2, all of it in this one, is loaded, generates and embeds as it should."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from stretto.engine.attention import Attend, Spec
from stretto.engine.checkpoint import configuration
from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.config import Limits
from stretto.engine.families import registry
from stretto.engine.families.registry import Family
from stretto.engine.families.weights import WeightMap
from stretto.engine.loading import LoadedModel, load
from stretto.engine.messages import Encode, Load
from stretto.engine.models.loading import build as load_model
from stretto.engine.models.parts import MLP, Embed, Head, LinearResidual, Norm, NormLinear, Rows, last
from stretto.engine.requests import Pooling, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    norm_eps: float


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        size, heads = config.width // config.heads, config.heads
        self.layer = layer
        self.spec = Spec(heads=heads, key_heads=heads, head_size=size, scale=size**-0.5, causal=True)
        before = Norm(config.width, "layer", config.norm_eps)
        self.qkv = NormLinear(config.width, heads=(heads,) * 3, head_size=size, bias=True, norm=before)
        self.out = LinearResidual(config.width, config.width, bias=True)
        self.mlp = MLP(
            config.width,
            config.mlp_width,
            activation="gelu_new",
            gated=False,
            bias=True,
            norm=Norm(config.width, "layer", config.norm_eps),
        )

    def forward(self, x: Tensor, rows: Rows, attend: Attend) -> Tensor:
        q, k, v = self.qkv(x, rows)
        x = self.out(attend(self.layer, q, k, v, self.spec), rows, residual=x)
        x = self.mlp(x, rows, residual=x)
        return x


class GPT2(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config.width, tokens=config.vocab_size, positions=config.context)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = Norm(config.width, "layer", config.norm_eps)
        self.head = Head(config.width, config.vocab_size)

    @property
    def specs(self) -> tuple[Spec, ...]:
        return tuple(block.spec for block in self.blocks if isinstance(block, Block))

    def states(self, rows: Rows, attend: Attend) -> Iterator[Tensor]:
        x: Tensor = self.embed(rows)
        for block in self.blocks:
            yield x
            x = block(x, rows, attend)
        yield self.norm(x)

    def forward(self, rows: Rows, attend: Attend) -> Tensor:
        return last(self.states(rows, attend))

    def logits(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.head(hidden)
        return scores


build = GPT2


def read(config: Mapping[str, Any], where: str) -> Config:
    return Config(
        vocab_size=config["vocab_size"],
        context=config["n_positions"],
        width=config["n_embd"],
        layers=config["n_layer"],
        heads=config["n_head"],
        mlp_width=config["n_inner"] or 4 * config["n_embd"],
        norm_eps=config["layer_norm_epsilon"],
    )


def weights(config: Config) -> WeightMap:
    sources: dict[str, tuple[str, ...]] = {
        "embed.token.weight": ("transformer.wte.weight",),
        "embed.position.weight": ("transformer.wpe.weight",),
        "head.weight": ("lm_head.weight",),
    }
    pairs = {"norm": "ln_f"}
    for i in range(config.layers):
        theirs = {"qkv.norm": "ln_1", "qkv": "attn.c_attn", "out": "attn.c_proj"}
        theirs |= {"mlp.norm": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
        pairs |= {f"blocks.{i}.{mine}": f"h.{i}.{name}" for mine, name in theirs.items()}
    for mine, name in pairs.items():
        sources |= {f"{mine}.{kind}": (f"transformer.{name}.{kind}",) for kind in ("weight", "bias")}
    return WeightMap(
        sources=sources,
        prefix="transformer.",
        unused=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),
        tied={"head.weight": "embed.token.weight"},
        transposed=(r"transformer\.h\.\d+\.(attn|mlp)\.c_\w+\.weight",),
    )


def gguf_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": metadata["gpt2.vocab_size"],
        "n_positions": metadata["gpt2.context_length"],
        "n_embd": metadata["gpt2.embedding_length"],
        "n_layer": metadata["gpt2.block_count"],
        "n_head": metadata["gpt2.attention.head_count"],
        "n_inner": metadata["gpt2.feed_forward_length"],
        "layer_norm_epsilon": metadata["gpt2.attention.layer_norm_epsilon"],
    }


def gguf_names(config: Config) -> dict[str, str]:
    names = {"token_embd.weight": "transformer.wte.weight", "position_embd.weight": "transformer.wpe.weight"}
    pairs = {"output_norm": "ln_f"}
    for i in range(config.layers):
        theirs = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj"}
        theirs |= {"ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
        pairs |= {f"blk.{i}.{name}": f"h.{i}.{ours}" for name, ours in theirs.items()}
    for name, ours in pairs.items():
        names |= {f"{name}.{kind}": f"transformer.{ours}.{kind}" for kind in ("weight", "bias")}
    return names


FAMILY = Family(
    name="gpt2",
    architectures={"GPT2LMHeadModel": (Task.GENERATE, Task.EMBED)},
    module=__name__,
    default_pooling=Pooling.LAST_TOKEN,
    read=read,
    weights=weights,
    gguf_config=gguf_config,
    gguf_names=gguf_names,
)


@pytest.fixture
def theirs() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    with torch.no_grad():
        for parameter in model.parameters():  # every one is to matter: fresh biases are 0 and norms 1
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.train(False)
    return model


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (registry, configuration):
        monkeypatch.setattr(module, "FAMILIES", (*registry.FAMILIES, FAMILY))  # the one line


@pytest.fixture
def ours(theirs: GPT2LMHeadModel, tmp_path: Path, registered: None) -> Any:
    theirs.save_pretrained(tmp_path)
    return load_model(open_checkpoint(tmp_path), dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def served(ours: Any, tmp_path: Path) -> LoadedModel:
    command = Load(name="m", path=str(tmp_path), dtype="float32", device="cpu", cache_bytes=1 << 20, limit_ids=96)
    return load(command, Limits())


def test_a_third_family_generates_what_transformers_does(
    theirs: GPT2LMHeadModel, ours: Any, greedy: Callable[..., Any]
) -> None:
    chance = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 96, (length,), generator=chance).tolist() for length in (1, 7, 23)]
    wanted = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        said = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=32,
            eos_token_id=-1,
            pad_token_id=0,
        )
        wanted.append(said[0, len(prompt) :].tolist())
    assert len({token for tokens in wanted for token in tokens}) > 5, "one token over and over compares little"
    assert greedy(ours, prompts, 32) == wanted


def test_a_third_family_embeds_and_has_the_hidden_states_of_transformers(
    theirs: GPT2LMHeadModel, served: LoadedModel
) -> None:
    ids = list(range(3, 40))
    with torch.inference_mode():
        said = theirs.transformer(torch.tensor([ids])).last_hidden_state[0]
    assert served.runner is not None
    (vector,) = served.encoder.run([Encode(id=0, index=0, model="m", ids=ids, pooling="last_token", normalize=False)])
    assert vector is not None
    torch.testing.assert_close(torch.frombuffer(bytearray(vector), dtype=torch.float32), said[-1], atol=1e-4, rtol=0)


def test_a_third_family_is_read_from_gguf_whose_products_stand_as_torch_has_them(
    theirs: GPT2LMHeadModel, ours: Any, tmp_path: Path
) -> None:
    """As llama.cpp's converter writes it: what GPT-2's own files hold as [inputs, outputs] is turned there."""
    config = theirs.config
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt2")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    weights_of = dict(theirs.named_parameters())
    for name, source in gguf_names(ours.config).items():
        values = weights_of[source].detach()
        writer.add_tensor(name, (values.T if ".c_" in source and values.ndim == 2 else values).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read_back: Any = load_model(open_checkpoint(tmp_path / "m.gguf"), dtype=torch.float32, device=torch.device("cpu"))
    for (name, mine), (_, other) in zip(ours.named_parameters(), read_back.named_parameters(), strict=True):
        assert torch.equal(mine, other), name
