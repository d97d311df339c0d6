"""What a checkpoint says of its rotary position embedding (RoPE). No torch: the tables are made in `rotary.py`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stretto.engine.errors import CheckpointError

SUPPORTED = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary embedding of the first `size` dimensions of a head (all of them here), halves rotated against each other.

    `inverse_frequencies` is the paper's theta^(-2i/size) after the checkpoint's scaling, in radians a position.
    Source: Su et al. 2021 (RoFormer); the linear scaling is Chen et al. 2023, llama3's is Llama 3.1's own.
    """

    size: int
    inverse_frequencies: tuple[float, ...]


def read_rope(config: Mapping[str, Any], size: int, where: str) -> Rope:
    """The rope of a Hugging Face config, whose parameters stand in one of two places.

    Old files: `rope_theta` and `rope_scaling` (with "type" or "rope_type"); new ones: `rope_parameters`. An unknown
    type is refused by name.
    """
    said = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = said.get("rope_type", said.get("type", "default"))
    theta = float(said.get("rope_theta", config.get("rope_theta", 10000.0)))
    if kind not in SUPPORTED:
        raise CheckpointError(
            f"{where} asks for rope type {kind!r}, which stretto does not have. It has: {', '.join(SUPPORTED)}."
        )
    if not 0 < theta < math.inf:
        raise CheckpointError(f"{where} says rope_theta {theta}; it should be a number above 0.")
    plain = [theta ** (-2 * i / size) for i in range(size // 2)]
    scaled = _scaled(plain, kind, said, where)
    if not all(0 < frequency < math.inf for frequency in scaled):
        raise CheckpointError(f"{where}: the rope parameters of type {kind!r} make frequencies that are none: {said}")
    return Rope(size=size, inverse_frequencies=tuple(scaled))


def _scaled(plain: list[float], kind: str, said: Mapping[str, Any], where: str) -> list[float]:
    try:
        if kind == "linear":
            return [f / float(said["factor"]) for f in plain]
        if kind == "llama3":
            return [_llama3(f, said) for f in plain]
        return plain
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{where}: the rope parameters of type {kind!r} are incomplete or wrong: {error}"
        ) from error


def _llama3(frequency: float, said: Mapping[str, Any]) -> float:
    """Keep short wavelengths, divide long ones by `factor`, and blend in between."""
    factor, low, high = float(said["factor"]), float(said["low_freq_factor"]), float(said["high_freq_factor"])
    turns = float(said["original_max_position_embeddings"]) * frequency / (2 * math.pi)
    if turns > high:
        return frequency
    if turns < low:
        return frequency / factor
    smooth = (turns - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency
