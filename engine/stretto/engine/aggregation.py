"""The vectors of a long text's windows become its vector. No torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stretto.engine.requests import Aggregation

SMALLEST_NORM = 1e-12  # sentence-transformers' own: a vector of zeros stays one


def combined(
    vectors_CD: NDArray[np.float32], counts: Sequence[int], aggregation: Aggregation, *, normalize: bool
) -> bytes:
    """One vector out of C windows', little-endian float32, brought to length 1 at the very end where that is wanted.

    WEIGHTED_MEAN weighs a window by all of its tokens, the special ones and those that it shares included.
    """
    wide_CD = vectors_CD.astype(np.float64)
    match aggregation:
        case Aggregation.WEIGHTED_MEAN:
            vector_D = np.average(wide_CD, axis=0, weights=counts)
        case Aggregation.MEAN:
            vector_D = wide_CD.mean(0)
        case Aggregation.MAX:
            vector_D = wide_CD.max(0)
        case Aggregation.FIRST:
            vector_D = wide_CD[0]
        case Aggregation.NONE:
            raise AssertionError("windows that keep their vectors are not combined")
    if normalize:
        vector_D = vector_D / max(float(np.linalg.norm(vector_D)), SMALLEST_NORM)
    return vector_D.astype("<f4").tobytes()
