"""Proves when an engine that says nothing is taken for one that hangs, in told time."""

import pytest

from stretto.engine.messages import Gauges, LoadFailed, Ready, Step
from stretto.engine.watchdog import Watchdog

READY = Ready(
    name="a",
    device="cpu",
    dtype="float32",
    weight_bytes=0,
    cache_bytes=0,
    cache_blocks=0,
    cache_tokens=0,
    threads=1,
    kernels="torch",
    seconds=1,
)
FAILED = LoadFailed(name="b", message="no tensor")
BEAT = Gauges(model="a", task="generate", waiting=0, waiting_tokens=0)


def step(seconds: float) -> Step:
    return Step(model="a", kind="decode", seconds=seconds, sequences=1, tokens=1)


def patience(watchdog: Watchdog) -> int:
    """How many seconds of silence it bears from now on."""
    return next(seconds for seconds in range(10_000) if watchdog.hangs(1.0))


def test_silence_beyond_the_limit_is_a_hang_and_a_word_starts_the_count_again() -> None:
    watchdog = Watchdog(10, num_loads=0)
    assert not any(watchdog.hangs(1.0) for _ in range(10))
    watchdog.hear([BEAT])
    assert not any(watchdog.hangs(1.0) for _ in range(10))
    assert watchdog.hangs(1.0)
    assert watchdog.why == "hung: it said nothing for 11 s, the limit is 10 s"


def test_while_models_are_loaded_any_silence_is_borne() -> None:
    watchdog = Watchdog(10, num_loads=2)
    assert not watchdog.hangs(10_000)
    watchdog.hear([READY])
    assert not watchdog.hangs(10_000)
    watchdog.hear([FAILED])
    assert watchdog.hangs(11)


@pytest.mark.parametrize(("longest", "expected"), [(0.1, 10), (0.5, 10), (0.51, 10), (2.0, 40)])
def test_where_steps_are_long_the_limit_is_twenty_of_the_longest(longest: float, expected: int) -> None:
    watchdog = Watchdog(10, num_loads=0)
    watchdog.hear([step(0.01), step(longest), step(0.01)])
    assert patience(watchdog) == expected


def test_a_long_step_is_forgotten_after_a_hundred_shorter_ones() -> None:
    watchdog = Watchdog(10, num_loads=0)
    watchdog.hear([step(5.0), *[step(0.01)] * 100])
    assert patience(watchdog) == 10


def test_a_limit_of_nothing_is_none() -> None:
    watchdog = Watchdog(0, num_loads=0)
    watchdog.hear([step(1.0)])
    assert not watchdog.hangs(1e9)
