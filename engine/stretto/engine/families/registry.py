"""The model families: from the architecture a checkpoint names to what it is and which module holds it. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stretto.engine.errors import CheckpointError
from stretto.engine.families import bert, llama
from stretto.engine.families.weights import WeightMap
from stretto.engine.requests import Pooling, Task


class Config(Protocol):
    """What every family's configuration says, however else it differs."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def mlp_width(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family of models: everything about it that can be said without its weights.

    `architectures` maps the names of config.json to the tasks that such a checkpoint does. `read` turns a config.json
    (and a name for error messages) into a config, `weights` says which tensors of a checkpoint make each parameter, and
    the `gguf_*` pair translates a GGUF file's metadata and tensor names into Hugging Face's.
    """

    name: str
    architectures: Mapping[str, tuple[Task, ...]]
    module: str
    default_pooling: Pooling
    read: Callable[[Mapping[str, Any], str], Config]
    weights: Callable[[Any], WeightMap]
    gguf_config: Callable[[Mapping[str, Any]], dict[str, Any]]
    gguf_names: Callable[[Any], Mapping[str, str]]


FAMILIES = (
    Family(
        name="bert",
        architectures={"BertModel": (Task.EMBED,)},
        module="stretto.engine.models.bert",
        default_pooling=Pooling.MEAN,
        read=bert.read,
        weights=bert.weights,
        gguf_config=bert.gguf_config,
        gguf_names=bert.gguf_names,
    ),
    Family(
        name="llama",
        architectures={"LlamaForCausalLM": (Task.GENERATE, Task.SCORE, Task.EMBED), "LlamaModel": (Task.EMBED,)},
        module="stretto.engine.models.llama",
        default_pooling=Pooling.LAST_TOKEN,
        read=llama.read,
        weights=llama.weights,
        gguf_config=llama.gguf_config,
        gguf_names=llama.gguf_names,
    ),
)


def family_of(architecture: str, where: str) -> Family:
    """The family that has this architecture, by the name that a config.json uses (`LlamaForCausalLM`)."""
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    known = ", ".join(sorted(name for family in FAMILIES for name in family.architectures))
    raise CheckpointError(
        f'{where} says architectures: ["{architecture}"], which stretto does not have.\nIt has: {known}.'
    )
