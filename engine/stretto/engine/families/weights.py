"""Which tensors of a checkpoint make which parameter of a model. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMap:
    """From our parameters' names to a checkpoint's.

    `sources` gives each parameter the tensors that make it, stacked along their first dimension (q, k and v are one
    parameter of ours and three tensors of the file). `prefix` is what a checkpoint with a head puts before the names of
    the body: a file without it (saved from the bare model) is read too. `unused` are tensors that such checkpoints hold
    and this model has no use for (buffers, a pooler without its head): known, so no mistake. `tied` maps a parameter
    to the one it shares memory with when the file holds no tensor of its own for it. `renamed` are old spellings of
    name endings. `transposed` are tensors that Hugging Face's files (not GGUF's) hold as [inputs, outputs].
    """

    sources: dict[str, tuple[str, ...]]
    prefix: str
    unused: tuple[str, ...] = ()  # regular expressions, matched against whole names
    tied: dict[str, str] | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    transposed: tuple[str, ...] = ()  # regular expressions, as above
