"""The queue in front of the engine is bounded in requests and in tokens, and every place is given back once."""

import pytest

from stretto.engine.admission import Admission
from stretto.engine.config import Limits
from stretto.engine.errors import Overloaded


def test_the_request_after_the_last_place_is_refused_with_the_limit() -> None:
    admission = Admission(Limits(max_queue_requests=2))
    places = [admission.reserve(1), admission.reserve(1)]
    with pytest.raises(Overloaded, match=r"the limit is 2\.") as caught:
        admission.reserve(1)
    assert caught.value.retry_after
    places[0].leave()
    admission.reserve(1)


def test_tokens_are_bounded_too_and_corrected_once_they_are_counted() -> None:
    admission = Admission(Limits(max_queue_tokens=100))
    place = admission.reserve(90)
    with pytest.raises(Overloaded, match="may bring 20"):
        admission.reserve(20)
    place.correct(30)
    admission.reserve(20)
    assert admission.num_tokens == 50


def test_a_request_larger_than_the_whole_queue_may_come_when_nothing_waits() -> None:
    admission = Admission(Limits(max_queue_tokens=100))
    big = admission.reserve(1000)
    with pytest.raises(Overloaded):
        admission.reserve(1)
    big.leave()
    assert admission.num_tokens == 0


def test_a_place_is_given_back_once_however_often_it_is_left() -> None:
    admission = Admission(Limits())
    place = admission.reserve(5)
    place.leave()
    place.leave()
    place.correct(50)
    assert (admission.num_requests, admission.num_tokens) == (0, 0)
