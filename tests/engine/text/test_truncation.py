"""A text that is too long is cut as the policy says, between its special tokens, and the cut is counted."""

import itertools

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from stretto.engine.errors import InputTooLong
from stretto.engine.requests import Overflow
from stretto.engine.text.pairs import pair_template
from stretto.engine.text.tokenizer import Tokenizer
from stretto.engine.text.truncation import fit, fit_pair, windows


@pytest.fixture(scope="module")
def long_ids(minilm_tokenizer: Tokenizer) -> list[int]:
    [ids] = minilm_tokenizer.encode([" ".join(f"w{i}" for i in range(200))], add_special_tokens=True)
    assert len(ids) == 531
    return ids


@pytest.fixture
def words() -> tokenizers.Tokenizer:
    """The words w0 to w119, and BERT's way of wrapping one text or two."""
    library = tokenizers.Tokenizer(models.WordLevel({f"w{i}": i for i in range(120)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(
        single="w1 $A w2", pair="w1 $A w2 $B:1 w2:1", special_tokens=[("w1", 1), ("w2", 2)]
    )
    return library


@pytest.mark.parametrize("policy", list(Overflow))
def test_what_fits_is_only_wrapped(policy: Overflow) -> None:
    assert fit([7, 8], 4, policy, head=(1,), tail=(2,), name="a") == ([1, 7, 8, 2], 0)


def test_cutting_the_end_keeps_the_closing_token(long_ids: list[int]) -> None:
    got = fit(long_ids[1:-1], 256, Overflow.TRUNCATE_END, head=(101,), tail=(102,), name="a")
    assert got == ([*long_ids[:255], 102], 275)


def test_cutting_the_start_keeps_the_opening_token(long_ids: list[int]) -> None:
    got = fit(long_ids[1:-1], 256, Overflow.TRUNCATE_START, head=(101,), tail=(102,), name="a")
    assert got == ([101, *long_ids[-255:]], 275)


@pytest.mark.parametrize("room", range(1, 10))
def test_cutting_the_middle_keeps_both_ends(room: int) -> None:
    ids, cut = fit(list(range(10)), room, Overflow.TRUNCATE_MIDDLE, head=(), tail=(), name="a")
    gone = [i for i in range(10) if i not in ids]
    assert (len(ids), cut) == (room, 10 - room)
    assert gone == list(range(gone[0], gone[-1] + 1))
    assert 0 <= gone[0] - (9 - gone[-1]) <= 1


def test_refusing_says_how_many_and_how_many_may_be(long_ids: list[int]) -> None:
    with pytest.raises(InputTooLong, match="531 tokens; the limit is 256") as caught:
        fit(long_ids[1:-1], 256, Overflow.ERROR, head=(101,), tail=(102,), name="a")
    assert caught.value.metadata == {"token_count": "531", "max": "256"}


def test_a_limit_with_no_room_for_text_is_refused_by_every_policy() -> None:
    for policy in Overflow:
        with pytest.raises(InputTooLong):
            fit([7], 2, policy, head=(1,), tail=(2,), name="a")


@pytest.mark.parametrize("policy", [Overflow.TRUNCATE_END, Overflow.TRUNCATE_START])
@pytest.mark.parametrize("lengths", [(5, 5), (30, 4), (4, 30), (20, 21), (21, 20), (20, 20), (1, 40), (40, 1)])
@pytest.mark.parametrize("limit", [5, 6, 9, 20, 33])
def test_a_pair_is_cut_as_the_library_cuts_it_the_longest_first(
    words: tokenizers.Tokenizer, policy: Overflow, lengths: tuple[int, int], limit: int
) -> None:
    template = pair_template(words)
    assert template is not None
    first, second = list(range(10, 10 + lengths[0])), list(range(60, 60 + lengths[1]))
    words.enable_truncation(limit, direction="left" if policy is Overflow.TRUNCATE_START else "right")
    said = words.encode(*(" ".join(f"w{i}" for i in ids) for ids in (first, second)))
    got = fit_pair(first, second, limit, policy, template, name="a")
    assert got == (said.ids, said.type_ids, max(0, sum(lengths) + 3 - limit))


def test_a_pair_cut_in_the_middle_keeps_both_ends_of_both(words: tokenizers.Tokenizer) -> None:
    template = pair_template(words)
    assert template is not None
    ids, _, cut = fit_pair(list(range(10, 20)), list(range(60, 64)), 11, Overflow.TRUNCATE_MIDDLE, template, name="a")
    assert (ids, cut) == ([1, 10, 11, 18, 19, 2, 60, 61, 62, 63, 2], 6)


@pytest.mark.parametrize("policy", [Overflow.ERROR, Overflow.CHUNK])
def test_a_pair_that_may_not_be_cut_is_refused_with_its_figures(words: tokenizers.Tokenizer, policy: Overflow) -> None:
    template = pair_template(words)
    assert template is not None
    with pytest.raises(InputTooLong, match="makes 13 tokens; the limit is 12"):
        fit_pair([10] * 5, [11] * 5, 12, policy, template, name="a")


@pytest.mark.parametrize("length", range(40))
@pytest.mark.parametrize(("limit", "overlap"), [(7, 0), (7, 1), (7, 4), (3, 0)])
def test_windows_cover_a_text_share_their_overlap_and_are_no_more_than_needed(
    length: int, limit: int, overlap: int
) -> None:
    body = list(range(10, 10 + length))
    got = windows(body, limit, overlap, head=(1,), tail=(2,), most=100, name="a")
    assert all(ids[0] == 1 and ids[-1] == 2 and len(ids) <= limit for ids in got)
    pieces = [ids[1:-1] for ids in got]
    assert pieces[0] + [token for piece in pieces[1:] for token in piece[overlap:]] == body
    assert all(a[len(a) - overlap :] == b[:overlap] for a, b in itertools.pairwise(pieces))
    assert all(len(piece) == limit - 2 for piece in pieces[:-1])
    assert len(pieces) == 1 or len(pieces[-1]) > overlap


def test_more_windows_than_may_be_are_refused_with_both_figures() -> None:
    assert len(windows(list(range(10)), 4, 1, head=(), tail=(), most=3, name="a")) == 3
    with pytest.raises(InputTooLong, match="a makes 4 chunks; the limit is 3") as caught:
        windows(list(range(11)), 4, 1, head=(), tail=(), most=3, name="a")
    assert (caught.value.metadata["chunk_count"], caught.value.metadata["max_chunks"]) == ("4", "3")
