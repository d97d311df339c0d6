"""Random numbers as a function of what they are for: no state, so the company in a batch cannot change a draw."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORD = (1 << 64) - 1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


def uniforms(draws: Sequence[tuple[int, int, int, int]]) -> NDArray[np.float64]:
    """One float64 in [0, 1), of 53 random bits, for each (seed, candidate, position, draw number).

    Each number in turn is added to the state and mixed in by a step of SplitMix64 (Steele, Lea and Flood 2014, "Fast
    splittable pseudorandom number generators"; the constants are Stafford's variant 13 of the MurmurHash3 finalizer).
    """
    words = np.array([[number & WORD for number in draw] for draw in draws], dtype=np.uint64).reshape(-1, 4)
    state = np.zeros(len(words), dtype=np.uint64)
    for column in words.T:
        state = _mixed(state + column + GOLDEN)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * MIX_1
    state = (state ^ (state >> np.uint64(27))) * MIX_2
    return state ^ (state >> np.uint64(31))
