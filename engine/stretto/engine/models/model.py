"""What the engine asks of a model, whichever family it is of."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from stretto.engine.attention import Attend, Spec
from stretto.engine.models.parts import Rows


class Model(Protocol):
    """From rows to hidden states [T, width]; `specs` has one entry a layer, in the order that they attend.

    `states` gives the embeddings, then what each layer makes of them, each as it is made: who stops early computes no
    layer above. The last is what a call returns.
    """

    def parameters(self) -> Iterator[nn.Parameter]: ...

    @property
    def specs(self) -> tuple[Spec, ...]: ...

    def states(self, rows: Rows, attend: Attend) -> Iterator[Tensor]: ...

    def __call__(self, rows: Rows, attend: Attend) -> Tensor: ...


@runtime_checkable
class Decoder(Model, Protocol):
    """A model that can say what comes next."""

    def logits(self, hidden: Tensor) -> Tensor: ...
