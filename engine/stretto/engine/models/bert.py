"""BERT and its sentence encoders: learned positions and segments, norms after each residual, attention both ways."""

from collections.abc import Iterator

from torch import Tensor, nn

from stretto.engine.attention import Attend, Spec
from stretto.engine.families.bert import BertConfig
from stretto.engine.models.parts import MLP, Embed, LinearResidual, Norm, NormLinear, Rows, last


class Block(nn.Module):
    def __init__(self, config: BertConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.spec = Spec(
            heads=config.heads,
            key_heads=config.heads,
            head_size=config.head_size,
            scale=config.head_size**-0.5,
            causal=False,
        )
        self.qkv = NormLinear(config.width, heads=(config.heads,) * 3, head_size=config.head_size, bias=True)
        self.out = LinearResidual(
            config.width, config.width, bias=True, outer_norm=Norm(config.width, "layer", config.norm_eps)
        )
        self.mlp = MLP(
            config.width,
            config.mlp_width,
            activation=config.activation,
            gated=False,
            bias=True,
            outer_norm=Norm(config.width, "layer", config.norm_eps),
        )

    def forward(self, x: Tensor, rows: Rows, attend: Attend) -> Tensor:
        q, k, v = self.qkv(x, rows)
        x = self.out(attend(self.layer, q, k, v, self.spec), rows, residual=x)
        x = self.mlp(x, rows, residual=x)
        return x


class Bert(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(
            config.width,
            tokens=config.vocab_size,
            positions=config.context,
            segments=config.num_segments,
            norm=Norm(config.width, "layer", config.norm_eps),
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))

    @property
    def specs(self) -> tuple[Spec, ...]:
        return tuple(block.spec for block in self.blocks if isinstance(block, Block))

    def states(self, rows: Rows, attend: Attend) -> Iterator[Tensor]:
        x: Tensor = self.embed(rows)
        yield x
        for block in self.blocks:
            x = block(x, rows, attend)
            yield x

    def forward(self, rows: Rows, attend: Attend) -> Tensor:
        return last(self.states(rows, attend))


def build(config: BertConfig) -> Bert:
    return Bert(config)
