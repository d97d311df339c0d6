"""A stop string is found wherever the pieces are cut, and no part of it is ever sent, nor anything else kept back."""

import random

import pytest

from stretto.engine.text.stops import StopStrings


def _found(text: str, stops: list[str], include: bool, unarmed: int = 0) -> tuple[str, str | None]:
    """The slow, obvious way: every place in the whole text where one may end, the longest stop string first."""
    for end in range(unarmed + 1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop) * (not include)], stop
    return text, None


def _sent(pieces: list[str], stops: list[str], include: bool) -> tuple[list[str], str | None]:
    search = StopStrings(stops, include)
    sent = [search.push(piece) for piece in pieces]
    return [*sent, search.finish()], search.matched


def _cut(text: str, draw: random.Random) -> list[str]:
    places = sorted(draw.choices(range(len(text) + 1), k=draw.randint(0, 6)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("include", [True, False])
def test_any_cut_gives_what_searching_the_whole_text_gives(include: bool) -> None:
    draw = random.Random(3)
    for _ in range(20_000):
        text = "".join(draw.choices("abc", k=draw.randint(0, 14)))
        stops = ["".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(draw.randint(1, 3))]
        sent, matched = _sent(_cut(text, draw), stops, include)
        assert ("".join(sent), matched) == _found(text, stops, include)


def test_nothing_is_held_that_cannot_become_a_stop_string() -> None:
    draw = random.Random(4)
    for _ in range(5_000):
        text = "".join(draw.choices("abc", k=12))
        stops = ["".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(2)]
        search = StopStrings(stops, False)
        sent = ""
        for count, character in enumerate(text, 1):
            sent += search.push(character)
            if search.matched is not None:
                break
            held = text[len(sent) : count]
            assert sent + held == text[:count]
            assert not held or any(stop.startswith(held) or held.startswith(stop) for stop in stops)


def test_unarmed_text_may_begin_a_match_but_not_end_one() -> None:
    draw = random.Random(5)
    for _ in range(10_000):
        text = "".join(draw.choices("abc", k=draw.randint(0, 12)))
        stops = ["".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(2)]
        border = draw.randint(0, len(text))
        search = StopStrings(stops, False)
        sent = [search.push(piece, armed=False) for piece in _cut(text[:border], draw)]
        sent += [search.push(piece) for piece in _cut(text[border:], draw)]
        sent.append(search.finish())
        assert ("".join(sent), search.matched) == _found(text, stops, False, unarmed=border)


def test_a_match_is_known_with_its_last_character_even_where_a_longer_one_might_follow() -> None:
    search = StopStrings(["abc", "ab"], False)
    assert (search.push("xab"), search.matched) == ("x", "ab")


def test_unarmed_text_after_armed_text_ends_nothing() -> None:
    search = StopStrings(["ab", "abc"], False)
    sent = search.push("xa") + search.push("b", armed=False) + search.finish()
    assert (sent, search.matched) == ("xab", None)


def test_the_head_of_a_stop_string_never_leaks() -> None:
    sent, matched = _sent([" 6", ",", " ", "7", ",", " ", "8", ",", " ", "9", ","], [", 9"], False)
    assert (sent[:9], matched) == ([" 6", "", "", ", 7", "", "", ", 8", "", ""], ", 9")
    assert "".join(sent) == " 6, 7, 8"


def test_included_it_is_the_last_that_is_sent() -> None:
    sent, matched = _sent([" 8", ", 9, 10"], [", 9"], True)
    assert ("".join(sent), matched) == (" 8, 9", ", 9")


def test_what_was_held_back_for_nothing_is_sent_at_the_end() -> None:
    assert _sent(["x", ", "], [", 9"], False) == (["x", "", ", "], None)


def test_without_stop_strings_everything_goes_through() -> None:
    assert _sent(["x", "", "y"], [], False) == (["x", "", "y", ""], None)
