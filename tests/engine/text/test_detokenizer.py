"""Text that is sent as it is made equals the whole text decoded at once, and nothing sent has to be taken back."""

import random

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models

from stretto.engine.text.tokenizer import Tokenizer


def _pushed(tokenizer: Tokenizer, ids: list[int], *, skip: bool, draw: random.Random) -> list[str]:
    """The deltas of ids pushed in groups of one to four."""
    detokenizer = tokenizer.detokenizer(skip_special_tokens=skip)
    deltas, at = [], 0
    while at < len(ids):
        step = draw.randint(1, 4)
        deltas.append(detokenizer.push(ids[at : at + step]))
        at += step
    return [*deltas, detokenizer.finish()]


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """A small sentencepiece-style vocabulary; its decoder leaves out the blank before the first word."""
    return _byte_fallback(decoders.Strip(" ", 1, 0))


def _byte_fallback(*last: decoders.Decoder) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", "\u2581\u2581", "a", "\u2581a", "b\u2581c", "世", "\u2581世", "é", "."]
    model = models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)
    library = tokenizers.Tokenizer(model)
    library.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    library.decoder = decoders.Sequence(steps)
    return Tokenizer(library, bos_id=1, eos_ids=frozenset({2}))


def test_characters_of_several_tokens_come_whole(smollm2_tokenizer: Tokenizer) -> None:
    ids = [26843, 15107, 116, 243, 10907, 216, 7906, 240, 178, 239, 230, 816, 26411]
    detokenizer = smollm2_tokenizer.detokenizer(skip_special_tokens=True)
    deltas = [detokenizer.push([token]) for token in ids]
    assert deltas == ["Hi", " ", "", "🦙", " ok", " ", "", "世", "", "", "界", " –", " é"]
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("skip", [True, False])
def test_random_ids_of_a_byte_level_vocabulary_stream_as_they_decode(smollm2_tokenizer: Tokenizer, skip: bool) -> None:
    draw = random.Random(11)
    short = [token for token in range(smollm2_tokenizer.size) if len(smollm2_tokenizer.token_bytes(token)) == 1]
    for _ in range(1000):
        ids = [
            draw.choice([draw.randrange(smollm2_tokenizer.size), draw.choice(short), draw.randrange(3)])
            for _ in range(24)
        ]
        deltas = _pushed(smollm2_tokenizer, ids, skip=skip, draw=draw)
        assert "".join(deltas) == smollm2_tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("strips", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_random_ids_of_a_byte_fallback_vocabulary_stream_as_they_decode(strips: bool, skip: bool) -> None:
    tokenizer = _byte_fallback(*([decoders.Strip(" ", 1, 0)] if strips else []))
    draw = random.Random(12)
    for _ in range(1000):
        ids: list[int] = []
        for _ in range(draw.randint(1, 12)):
            whole = [3 + byte for byte in draw.choice(" a é世🦙").encode()]  # byte tokens that are a character
            ids += draw.choice([whole, [draw.randrange(1, 3)], [draw.randrange(259, tokenizer.size)]])
        deltas = _pushed(tokenizer, ids, skip=skip, draw=draw)
        assert "".join(deltas) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("scheme", [None, "always", "first", "never"])
def test_random_ids_of_word_and_metaspace_vocabularies_stream_as_they_decode(scheme: str | None, skip: bool) -> None:
    """Without a decoder, words between blanks; with Metaspace, blanks where the pieces have them."""
    tokens = ["<unk>", "<s>", "a", "\u2581", "\u2581b", "cd", "世", "."]
    library = tokenizers.Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    library.add_special_tokens([AddedToken("<s>", normalized=False)])
    if scheme is not None:
        library.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer = Tokenizer(library, bos_id=1, eos_ids=frozenset())
    draw = random.Random(14)
    for _ in range(500):
        ids = [draw.randrange(len(tokens)) for _ in range(draw.randint(1, 10))]
        deltas = _pushed(tokenizer, ids, skip=skip, draw=draw)
        assert "".join(deltas) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_broken_byte_tokens_are_replaced_one_by_one_and_whole_characters_stay(byte_fallback: Tokenizer) -> None:
    draw = random.Random(13)
    for _ in range(1000):
        data = b"".join(draw.choice([bytes([draw.randrange(256)]), "世".encode(), b"\xe4\xb8"]) for _ in range(6))
        deltas = _pushed(byte_fallback, [3 + byte for byte in data], skip=True, draw=draw)
        assert "".join(deltas) == data.decode("utf-8", "replace").removeprefix(" ")


def test_a_byte_is_given_up_when_the_next_one_proves_it_broken_and_not_before(smollm2_tokenizer: Tokenizer) -> None:
    detokenizer = smollm2_tokenizer.detokenizer(skip_special_tokens=True)
    assert [detokenizer.push([token]) for token in (15107, 116, 26843)] == [" ", "", "\ufffdHi"]
    assert (detokenizer.push([116]), detokenizer.finish()) == ("\ufffd", "")
    detokenizer = smollm2_tokenizer.detokenizer(skip_special_tokens=True)
    assert (detokenizer.push([15107, 116]), detokenizer.finish()) == (" ", "\ufffd")


def test_hidden_tokens_do_not_part_a_character(smollm2_tokenizer: Tokenizer) -> None:
    detokenizer = smollm2_tokenizer.detokenizer(skip_special_tokens=True)
    assert [detokenizer.push([token]) for token in (15107, 116, 0, 243)] == [" ", "", "", "🦙"]


def test_space_before_punctuation_stays_in_a_stream(smollm2_tokenizer: Tokenizer) -> None:
    ids = [104, 6541, 329, 1673, 1892, 3297, 267, 637, 99, 536, 304, 982]
    detokenizer = smollm2_tokenizer.detokenizer(skip_special_tokens=True)
    assert "".join(detokenizer.push([token]) for token in ids) == "x != y . z , w 's do n't"


def test_an_id_outside_the_vocabulary_has_no_bytes(smollm2_tokenizer: Tokenizer) -> None:
    assert smollm2_tokenizer.token_bytes(60_000) == b""
