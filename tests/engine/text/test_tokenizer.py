"""A text becomes the ids and offsets that transformers and tokenizers give, and a bad tokenizer is refused."""

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.errors import CheckpointError, InvalidRequest
from stretto.engine.text.tokenizer import Tokenizer, folder_tokenizer, load_tokenizer

WORDPIECE = {
    "Kantō lǜshi Filipović İstanbul": [101, 26044, 2080, 16299, 2072, 10882, 15000, 9142, 9960, 102],
    "史 (shi) 你好": [101, 1790, 1006, 11895, 1007, 100, 100, 102],
    "naïve café": [101, 15743, 7668, 102],
    "a\u0000b\u200bc\ufffdd": [101, 5925, 2094, 102],
    "ﬁne ½": [101, 1984, 2638, 1092, 102],
    "Ｈｅｌｌｏ": [101, 100, 102],
    "a" * 101: [101, 100, 102],
}
SMOLLM = {
    "What is 3333+777?": [1780, 314, 216, 35, 35, 35, 35, 27, 39, 39, 39, 47],
    "12,345.67": [33, 34, 28, 35, 36, 37, 30, 38, 39],
    "I'M": [57, 23, 61],
    "hello world  !": [28120, 905, 216, 5728],
    "    return x": [333, 1003, 1792],
    "a\u00a0b": [81, 15442, 82],
    "\n\n": [1116],
    "Hello\n\nWorld": [19556, 198, 198, 11265],
}


@pytest.mark.parametrize("text", WORDPIECE)
def test_wordpiece_ids_are_those_of_the_case_list(minilm_tokenizer: Tokenizer, text: str) -> None:
    assert minilm_tokenizer.encode([text], add_special_tokens=True) == [WORDPIECE[text]]


def test_a_word_of_a_hundred_characters_is_still_split(minilm_tokenizer: Tokenizer) -> None:
    [ids] = minilm_tokenizer.encode(["a" * 100], add_special_tokens=True)
    assert len(ids) == 52
    assert ids[:4] == [101, 13360, 11057, 11057]


@pytest.mark.parametrize("text", SMOLLM)
def test_byte_level_ids_are_those_of_the_case_list(
    smollm2_tokenizer: Tokenizer, as_folder: Callable[..., Checkpoint], text: str
) -> None:
    assert smollm2_tokenizer.encode([text], add_special_tokens=True) == [SMOLLM[text]]
    assert load_tokenizer(as_folder()).encode([text], add_special_tokens=True) == [SMOLLM[text]]


def test_wordpiece_ids_and_offsets_equal_transformers(
    minilm_tokenizer: Tokenizer, minilm: Path, mixed_texts: list[str]
) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    ours = minilm_tokenizer.encode_with_offsets(mixed_texts, add_special_tokens=True)
    for text, (ids, offsets) in zip(mixed_texts, ours, strict=True):
        wanted = reference(text, return_offsets_mapping=True, truncation=False, padding=False)
        assert (ids, offsets) == (wanted["input_ids"], [tuple(pair) for pair in wanted["offset_mapping"]])
    assert minilm_tokenizer.encode(mixed_texts, add_special_tokens=True) == [ids for ids, _ in ours]


@pytest.mark.parametrize("form", ["gguf", "folder"])
def test_byte_level_ids_and_offsets_equal_transformers(
    form: str,
    smollm2_tokenizer: Tokenizer,
    as_folder: Callable[..., Checkpoint],
    smollm2_reference: Any,
    mixed_texts: list[str],
) -> None:
    tokenizer = smollm2_tokenizer if form == "gguf" else load_tokenizer(as_folder())
    ours = tokenizer.encode_with_offsets(mixed_texts, add_special_tokens=True)
    for text, (ids, offsets) in zip(mixed_texts, ours, strict=True):
        wanted = smollm2_reference(text, return_offsets_mapping=True)
        assert (ids, offsets) == (wanted["input_ids"], [tuple(pair) for pair in wanted["offset_mapping"]])
    assert tokenizer.encode(mixed_texts, add_special_tokens=True) == [ids for ids, _ in ours]


def test_what_a_checkpoint_says_of_its_special_tokens_is_known(
    minilm_tokenizer: Tokenizer, smollm2_tokenizer: Tokenizer, as_folder: Callable[..., Checkpoint]
) -> None:
    assert (minilm_tokenizer.head, minilm_tokenizer.tail, minilm_tokenizer.unknown_id) == ((101,), (102,), 100)
    assert (minilm_tokenizer.size, minilm_tokenizer.generates, minilm_tokenizer.eos_ids) == (30522, False, frozenset())
    for tokenizer in (smollm2_tokenizer, load_tokenizer(as_folder())):
        assert (tokenizer.head, tokenizer.tail, tokenizer.unknown_id) == ((), (), None)
        assert (tokenizer.size, tokenizer.generates, tokenizer.eos_ids) == (49152, True, frozenset({0, 2}))
        assert (tokenizer.bos_id, tokenizer.special_ids) == (1, frozenset(range(17)))


def test_truncation_and_padding_of_the_file_are_off(minilm_tokenizer: Tokenizer) -> None:
    ids = minilm_tokenizer.encode(["hello " * 300, "hello"], add_special_tokens=True)
    assert [len(row) for row in ids] == [302, 3]


def test_a_control_token_in_a_text_is_text_if_that_is_asked(smollm2_tokenizer: Tokenizer) -> None:
    text = "a<|im_end|>b"
    assert 2 in smollm2_tokenizer.encode([text], add_special_tokens=True)[0]
    [ids] = smollm2_tokenizer.encode([text], add_special_tokens=True, parse_special_tokens=False)
    assert not smollm2_tokenizer.special_ids.intersection(ids)
    assert smollm2_tokenizer.decode(ids, skip_special_tokens=True) == text


def test_threads_that_ask_for_both_ways_do_not_disturb_each_other(smollm2_checkpoint: Checkpoint) -> None:
    tokenizer = load_tokenizer(smollm2_checkpoint)
    wrong: list[bool] = []

    def ask(parse: bool) -> None:
        for _ in range(50):
            [ids] = tokenizer.encode(["a<|im_end|>"], add_special_tokens=False, parse_special_tokens=parse)
            wrong.append((2 in ids) is not parse)

    threads = [threading.Thread(target=ask, args=(parse,)) for parse in (True, False, True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 200


def test_a_text_of_a_megabyte_is_read(smollm2_tokenizer: Tokenizer, minilm_tokenizer: Tokenizer) -> None:
    text = "The quick brown fox 🦙. " * 42_000
    for tokenizer in (smollm2_tokenizer, minilm_tokenizer):
        [ids] = tokenizer.encode([text], add_special_tokens=False)
        assert len(ids) > 200_000


def test_half_of_a_surrogate_pair_is_refused_by_place(smollm2_tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"Text 1 holds U\+D800 at character 2"):
        smollm2_tokenizer.encode(["fine", "ab\ud800"], add_special_tokens=True)


def test_wordpiece_decoding_cleans_up(minilm_tokenizer: Tokenizer) -> None:
    [ids] = minilm_tokenizer.encode(["Hello , world . don't"], add_special_tokens=True)
    assert minilm_tokenizer.decode(ids, skip_special_tokens=True) == "hello, world. don ' t"


def test_a_flag_to_clean_up_does_not_touch_byte_level_text(as_folder: Callable[..., Checkpoint]) -> None:
    tokenizer = load_tokenizer(as_folder(config={"clean_up_tokenization_spaces": True}))
    ids = [104, 6541, 329, 1673, 1892, 3297, 267, 637, 99, 536, 304, 982]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "x != y . z , w 's do n't"


def test_vocab_txt_gives_the_ids_of_tokenizer_json(
    minilm_checkpoint: Checkpoint, minilm_tokenizer: Tokenizer, mixed_texts: list[str], tmp_path: Path
) -> None:
    spelt = {minilm_tokenizer.id_of(token): token for token in json.loads(_model(minilm_checkpoint))["vocab"]}
    (tmp_path / "vocab.txt").write_text("\n".join(spelt[i] for i in range(len(spelt))) + "\n", "utf-8")
    tokenizer = load_tokenizer(dataclasses.replace(minilm_checkpoint, folder=tmp_path))
    wanted = minilm_tokenizer.encode_with_offsets(mixed_texts, add_special_tokens=True)
    assert tokenizer.encode_with_offsets(mixed_texts, add_special_tokens=True) == wanted
    assert (tokenizer.special_ids, tokenizer.head) == (minilm_tokenizer.special_ids, minilm_tokenizer.head)


def test_vocab_txt_reads_words_as_tokenizer_config_says(minilm_checkpoint: Checkpoint, tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "É", "é", "e", "世界"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), "utf-8")
    config = {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False}
    changed = dataclasses.replace(minilm_checkpoint, folder=tmp_path, tokenizer_config=config)
    assert load_tokenizer(changed).encode(["É é 世界"], add_special_tokens=False) == [[5, 6, 8]]
    changed = dataclasses.replace(minilm_checkpoint, folder=tmp_path, tokenizer_config={})
    assert load_tokenizer(changed).encode(["É é 世界"], add_special_tokens=False) == [[7, 7, 1, 1]]


def test_a_token_that_only_tokenizer_config_calls_special_is_special(as_folder: Callable[..., Checkpoint]) -> None:
    unmarked = as_folder(tokenizer={"added_tokens": []}, config={"eos_token": {"content": "<|im_end|>"}})
    tokenizer = load_tokenizer(unmarked)
    assert 2 in tokenizer.special_ids
    assert tokenizer.encode(["<|im_end|>"], add_special_tokens=False) == [[2]]


def _model(checkpoint: Checkpoint) -> str:
    return json.dumps(json.loads((checkpoint.folder / "tokenizer.json").read_text("utf-8"))["model"])


def _broken(as_folder: Callable[..., Checkpoint], text: str) -> Checkpoint:
    checkpoint = as_folder()
    (checkpoint.folder / "tokenizer.json").write_text(text, "utf-8")
    return checkpoint


@pytest.mark.parametrize("text", ["", "{}", "nope", '{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]}}'])
def test_a_broken_tokenizer_json_is_refused_by_name(as_folder: Callable[..., Checkpoint], text: str) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        load_tokenizer(_broken(as_folder, text))


def test_a_tokenizer_json_of_more_than_256_megabytes_is_refused_unread(
    minilm_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(256 * 1024 * 1024 + 1)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has 268,435,457 bytes; the limit is 268,435,456"):
        load_tokenizer(dataclasses.replace(minilm_checkpoint, folder=tmp_path))


@pytest.mark.parametrize("limit", [1001, 2**31])
def test_a_wordpiece_limit_that_costs_minutes_is_refused(as_folder: Callable[..., Checkpoint], limit: int) -> None:
    model = tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]", max_input_chars_per_word=limit)
    with pytest.raises(CheckpointError, match=rf"max_input_chars_per_word is {limit}"):
        load_tokenizer(_broken(as_folder, tokenizers.Tokenizer(model).to_str()))


def test_a_wordpiece_without_its_unknown_token_is_refused(as_folder: Callable[..., Checkpoint]) -> None:
    model = tokenizers.models.WordPiece({"a": 1}, unk_token="[UNK]")
    with pytest.raises(CheckpointError, match=r"unk_token is '\[UNK\]', which the vocabulary does not hold"):
        load_tokenizer(_broken(as_folder, tokenizers.Tokenizer(model).to_str()))


def test_a_tokenizer_that_draws_lots_is_refused(as_folder: Callable[..., Checkpoint]) -> None:
    model = tokenizers.models.BPE({"a": 0}, [], dropout=0.5)
    with pytest.raises(CheckpointError, match=r"dropout is 0\.5"):
        load_tokenizer(_broken(as_folder, tokenizers.Tokenizer(model).to_str()))


def test_a_folder_without_a_tokenizer_is_refused(minilm_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(dataclasses.replace(minilm_checkpoint, folder=tmp_path))


def test_an_end_token_that_the_vocabulary_does_not_hold_is_refused(as_folder: Callable[..., Checkpoint]) -> None:
    with pytest.raises(CheckpointError, match=r"eos_token is '<\|gone\|>'"):
        load_tokenizer(as_folder(config={"eos_token": "<|gone|>"}))


def test_added_tokens_take_the_blanks_and_the_case_that_they_say(tmp_path: Path) -> None:
    words = {word: i for i, word in enumerate(["[UNK]", "x", "y", "moon"])}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    library.normalizer = tokenizers.normalizers.Lowercase()
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.add_tokens(
        [
            tokenizers.AddedToken("[LEFT]", lstrip=True, normalized=False),
            tokenizers.AddedToken("[BOTH]", lstrip=True, rstrip=True, normalized=False),
            tokenizers.AddedToken("Moon", normalized=False),
            tokenizers.AddedToken("sun", normalized=True),
            tokenizers.AddedToken("ab", single_word=True, normalized=False),
        ]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    ours = folder_tokenizer(tmp_path, {}, (), "added")
    for text, ids, offsets in (
        ("x [LEFT] y", [1, 4, 2], [(0, 1), (1, 8), (9, 10)]),
        ("x  [BOTH]  y", [1, 5, 2], [(0, 1), (1, 11), (11, 12)]),
        ("Moon moon Sun SUN", [6, 3, 7, 7], [(0, 4), (5, 9), (10, 13), (14, 17)]),
        ("ab xab ab", [8, 0, 8], [(0, 2), (3, 6), (7, 9)]),
    ):
        assert ours.encode_with_offsets([text], add_special_tokens=True) == [(ids, offsets)]
        assert ours.encode([text], add_special_tokens=True) == [ids]
