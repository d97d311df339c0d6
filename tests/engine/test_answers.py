"""What several events of the engine come to as one: the times and the company of a whole request."""

import time
from dataclasses import replace

from stretto.engine.answers import joined, telemetry, together
from stretto.engine.messages import Account
from stretto.engine.requests import Options


def account(**figures: int) -> Account:
    return Account(queue_seconds=0.0, prefill_seconds=0.0, decode_seconds=0.0, **figures)


def test_a_stream_took_as_long_as_the_slowest_of_its_calls() -> None:
    options = Options(request_id="r", received=time.monotonic() - 5)
    slow = telemetry(options, account(), 0.0, None)
    quick = replace(slow, total_seconds=0.5)
    assert joined(slow, quick).total_seconds == joined(quick, slow).total_seconds == slow.total_seconds


def test_a_request_of_several_items_was_preempted_as_often_as_all_of_them_and_held_as_much_as_the_largest() -> None:
    whole = together([account(preemptions=1, peak_blocks=4), account(preemptions=2, peak_blocks=3)])
    assert (whole.preemptions, whole.peak_blocks) == (3, 4)
