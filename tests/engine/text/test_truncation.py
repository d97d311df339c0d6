"""A text that is too long is cut as the policy says, between its special tokens, and the cut is counted."""

import pytest

from stretto.engine.errors import InputTooLong
from stretto.engine.requests import Overflow
from stretto.engine.text.tokenizer import Tokenizer
from stretto.engine.text.truncation import fit


@pytest.fixture(scope="module")
def long_ids(minilm_tokenizer: Tokenizer) -> list[int]:
    [ids] = minilm_tokenizer.encode([" ".join(f"w{i}" for i in range(200))], add_special_tokens=True)
    assert len(ids) == 531
    return ids


@pytest.mark.parametrize("policy", list(Overflow))
def test_what_fits_is_only_wrapped(policy: Overflow) -> None:
    assert fit([7, 8], 4, policy, head=(1,), tail=(2,)) == ([1, 7, 8, 2], 0)


def test_cutting_the_end_keeps_the_closing_token(long_ids: list[int]) -> None:
    got = fit(long_ids[1:-1], 256, Overflow.TRUNCATE_END, head=(101,), tail=(102,))
    assert got == ([*long_ids[:255], 102], 275)


def test_cutting_the_start_keeps_the_opening_token(long_ids: list[int]) -> None:
    got = fit(long_ids[1:-1], 256, Overflow.TRUNCATE_START, head=(101,), tail=(102,))
    assert got == ([101, *long_ids[-255:]], 275)


@pytest.mark.parametrize("room", range(1, 10))
def test_cutting_the_middle_keeps_both_ends(room: int) -> None:
    ids, cut = fit(list(range(10)), room, Overflow.TRUNCATE_MIDDLE, head=(), tail=())
    gone = [i for i in range(10) if i not in ids]
    assert (len(ids), cut) == (room, 10 - room)
    assert gone == list(range(gone[0], gone[-1] + 1))
    assert 0 <= gone[0] - (9 - gone[-1]) <= 1


def test_refusing_says_how_many_and_how_many_may_be(long_ids: list[int]) -> None:
    with pytest.raises(InputTooLong, match="531 tokens; the limit is 256") as caught:
        fit(long_ids[1:-1], 256, Overflow.ERROR, head=(101,), tail=(102,))
    assert caught.value.metadata == {"token_count": "531", "max": "256"}


def test_a_limit_with_no_room_for_text_is_refused_by_every_policy() -> None:
    for policy in Overflow:
        with pytest.raises(InputTooLong):
            fit([7], 2, policy, head=(1,), tail=(2,))
