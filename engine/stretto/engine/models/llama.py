"""Llama and what is built like it: RMS norms before, rotary positions, grouped heads, a gated MLP."""

from collections.abc import Iterator

from torch import Tensor, nn

from stretto.engine.attention import Attend, Spec
from stretto.engine.families.llama import LlamaConfig
from stretto.engine.models.parts import MLP, Embed, Head, LinearResidual, Norm, NormLinear, Rows, last


class Block(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.spec = Spec(
            heads=config.heads,
            key_heads=config.key_heads,
            head_size=config.head_size,
            scale=config.head_size**-0.5,
            causal=True,
            rope=config.rope,
        )
        self.qkv = NormLinear(
            config.width,
            heads=(config.heads, config.key_heads, config.key_heads),
            head_size=config.head_size,
            bias=config.attention_bias,
            norm=Norm(config.width, "rms", config.norm_eps),
        )
        self.out = LinearResidual(config.heads * config.head_size, config.width, bias=config.attention_bias)
        self.mlp = MLP(
            config.width,
            config.mlp_width,
            activation="silu",
            gated=True,
            bias=config.mlp_bias,
            norm=Norm(config.width, "rms", config.norm_eps),
        )

    def forward(self, x: Tensor, rows: Rows, attend: Attend) -> Tensor:
        q, k, v = self.qkv(x, rows)
        x = self.out(attend(self.layer, q, k, v, self.spec), rows, residual=x)
        x = self.mlp(x, rows, residual=x)
        return x


class Llama(nn.Module):
    """`head` is absent where the checkpoint only encodes; the loader ties it to the embedding where the file does."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config.width, tokens=config.vocab_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = Norm(config.width, "rms", config.norm_eps)
        self.head = Head(config.width, config.vocab_size) if config.head else None

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
        """Scores of every id, float32 [rows, vocabulary]."""
        assert self.head is not None, "a model without a head is never asked to generate"
        scores: Tensor = self.head(hidden)
        return scores


def build(config: LlamaConfig) -> Llama:
    return Llama(config)
