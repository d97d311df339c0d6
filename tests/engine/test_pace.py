"""The pace finds what a token costs beside what a step costs anyway, and forgets old days."""

import pytest

from stretto.engine.pace import MIN_TOKENS, Pace


def test_it_finds_the_slope_of_steps_with_a_fixed_cost() -> None:
    pace = Pace()
    for tokens in (1, 4, 400, 1, 64, 2):
        pace.learn(tokens, 0.045 + 0.001 * tokens)
    assert pace.seconds_per_token == pytest.approx(0.001)
    assert pace.tokens_in(0.1, 512) == pytest.approx(100, abs=1)
    assert pace.tokens_in(9.0, 512) == 512


def test_steps_all_alike_and_no_steps_at_all_give_a_sane_answer() -> None:
    pace = Pace()
    assert pace.tokens_in(0.01, 512) == 512
    for _ in range(5):
        pace.learn(10, 0.02)
    assert pace.seconds_per_token == pytest.approx(0.002)


def test_no_hurry_takes_all_and_no_budget_goes_below_the_least_step() -> None:
    pace = Pace()
    pace.learn(1, 1.0)
    assert pace.tokens_in(None, 512) == 512
    assert pace.tokens_in(0.001, 512) == MIN_TOKENS
    assert pace.tokens_in(0.001, 8) == 8


def test_it_follows_a_machine_that_becomes_slower() -> None:
    pace = Pace()
    for cost in (0.001, 0.004):
        for tokens in (1, 100) * 60:
            pace.learn(tokens, cost * tokens)
    assert pace.seconds_per_token == pytest.approx(0.004, rel=0.05)
