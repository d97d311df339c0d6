"""What the engine is told once: which models to load, and the limits of a step and of the queue. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """One model to load. `source` is what the operator wrote; `cache_bytes` 0 lets the engine choose."""

    name: str
    path: Path
    source: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    cache_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one step may cost, and how much may wait.

    A step computes at most `step_tokens` of at most `max_sequences` candidates, or texts of about `encode_tokens`
    together; while anything decodes, a prefill or encode step is cut to `step_budget_seconds`. `threads` 0 lets torch
    choose. An engine process that says nothing for `hang_seconds` is killed; 0: it is waited for.
    """

    max_sequences: int = 64
    step_tokens: int = 512
    encode_tokens: int = 1024
    step_budget_seconds: float = 0.1
    block_size: int = 16
    max_queue_requests: int = 512
    max_queue_tokens: int = 1_000_000
    max_inputs: int = 2048
    threads: int = 0
    hang_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_sequences", "step_tokens", "encode_tokens", "block_size", "max_queue_requests", "max_inputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
