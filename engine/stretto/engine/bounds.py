"""Refuse what lies outside its bounds, with the path that a caller knows, the value and the limit."""

import math

from stretto.engine.errors import BadTokenId, InvalidRequest


def within(path: str, value: float | None, low: float, high: float, *, open_low: bool = False, what: str = "") -> None:
    """Refuse a value outside [low, high], or (low, high] where `open_low`; NaN is outside every range."""
    if value is None or (low < value <= high if open_low else low <= value <= high):
        return
    range_ = f"at least {low:g}" if high == math.inf else f"in {'(' if open_low else '['}{low:g}, {high:g}]"
    raise InvalidRequest(f"{what}{path} must be {range_}; got {value:g}.", field=path)


def check_ids(ids: tuple[int, ...], vocab_size: int, name: str) -> None:
    """Refuse the first id that the model has no embedding for."""
    for token in ids:
        if not 0 <= token < vocab_size:
            raise BadTokenId(
                f"{name} holds {token}; ids go from 0 to {vocab_size - 1}.",
                field=name,
                metadata={"token_id": str(token), "vocab_size": str(vocab_size)},
            )
