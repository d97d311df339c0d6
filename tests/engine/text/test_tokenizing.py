"""Texts to ids and back as `tokenizers` and transformers have it, and files that make the same ids elsewhere."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from stretto.engine import tokenizing
from stretto.engine.config import LoadSpec
from stretto.engine.errors import BadTokenId, CheckpointError, InvalidRequest, ReplyTooLarge, StrettoError
from stretto.engine.requests import Chat, Message, Prompt, TextPrompt, TokenPrompt
from stretto.engine.served import Served
from stretto.engine.tokenizing import (
    DetokenizeCall,
    TokenizeCall,
    Tokenized,
    TokenizerFile,
    detokenized,
    tokenized,
    tokenizer_files,
)

LLAMA = "Hi 🦙 ok 世界 – é"
LLAMA_IDS = [26843, 15107, 116, 243, 10907, 216, 7906, 240, 178, 239, 230, 816, 26411]


def opened(path: Path) -> Served:
    return Served.open(LoadSpec(name="model", path=path, source="model"))


@pytest.fixture(scope="session")
def writer(smollm2_gguf: Path) -> Served:
    return opened(smollm2_gguf)


@pytest.fixture(scope="session")
def reader(minilm: Path) -> Served:
    return opened(minilm)


@pytest.fixture(scope="session")
def minilm_reference(minilm: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(minilm)


def spelt(served: Served, *inputs: Prompt, with_ids: bool = True) -> list[Tokenized]:
    call = TokenizeCall(
        model="model", inputs=inputs, with_ids=with_ids, with_pieces=with_ids, with_offsets=_are_texts(inputs)
    )
    return tokenized(served, call)


def _are_texts(inputs: Sequence[Prompt]) -> bool:
    return all(isinstance(given, TextPrompt) for given in inputs)


def texts(served: Served, *ids: Sequence[int], skip: bool = True, max_bytes: int = 1 << 30) -> list[str]:
    inputs = tuple(tuple(each) for each in ids)
    return detokenized(
        served, DetokenizeCall(model="model", inputs=inputs, skip_special_tokens=skip, max_bytes=max_bytes)
    )


def refusal(ask: Callable[[], object]) -> StrettoError:
    with pytest.raises(StrettoError) as caught:
        ask()
    return caught.value


def test_ids_and_pieces_are_those_worked_out_by_hand(writer: Served, reader: Served) -> None:
    [llama] = spelt(writer, TextPrompt(text=LLAMA))
    assert llama.ids == LLAMA_IDS
    assert llama.pieces[:5] == [b"Hi", b" \xf0\x9f", b"\xa6", b"\x99", b" ok"]
    assert llama.offsets[:5] == [(0, 2), (2, 4), (3, 4), (3, 4), (4, 7)]
    [cafe, unknown] = spelt(reader, TextPrompt(text="naïve café"), TextPrompt(text="a" * 101))
    assert (cafe.ids, unknown.ids) == ([101, 15743, 7668, 102], [101, 100, 102])
    assert (cafe.pieces, cafe.offsets) == (
        [b"[CLS]", b"naive", b"cafe", b"[SEP]"],
        [(0, 0), (0, 5), (6, 10), (0, 0)],
    )


def test_the_pieces_of_a_text_put_together_are_the_text(writer: Served, mixed_texts: list[str]) -> None:
    results = spelt(writer, *[TextPrompt(text=text) for text in mixed_texts])
    assert [b"".join(each.pieces).decode() for each in results] == mixed_texts
    assert [each.count for each in results] == [len(each.pieces) for each in results]


@pytest.mark.parametrize("special", [True, False])
def test_offsets_of_a_hugging_face_folder_are_transformers_own(
    reader: Served, minilm_reference: Any, mixed_texts: list[str], special: bool
) -> None:
    wanted = minilm_reference(mixed_texts, return_offsets_mapping=True, add_special_tokens=special)
    results = spelt(reader, *[TextPrompt(text=text, add_special_tokens=special) for text in mixed_texts])
    assert [each.ids for each in results] == wanted["input_ids"]
    assert [list(each.offsets) for each in results] == wanted["offset_mapping"]
    pieces = [minilm_reference.convert_ids_to_tokens(ids) for ids in wanted["input_ids"]]
    assert [[piece.decode() for piece in each.pieces] for each in results] == pieces


def test_offsets_out_of_a_gguf_file_are_transformers_own(
    writer: Served, smollm2_reference: Any, mixed_texts: list[str]
) -> None:
    wanted = smollm2_reference(mixed_texts, return_offsets_mapping=True)
    results = spelt(writer, *[TextPrompt(text=text) for text in mixed_texts])
    assert [each.ids for each in results] == wanted["input_ids"]
    assert [list(each.offsets) for each in results] == wanted["offset_mapping"]


@pytest.mark.parametrize("special", [True, False])
def test_a_pair_is_what_transformers_makes_of_it(reader: Served, minilm_reference: Any, special: bool) -> None:
    pair = TextPrompt(text="A man eats.", pair="Ein Mann ißt 🦙.", add_special_tokens=special)
    [result] = spelt(reader, pair)
    wanted = minilm_reference(pair.text, pair.pair, return_offsets_mapping=True, add_special_tokens=special)
    assert (result.ids, list(result.offsets)) == (wanted["input_ids"], wanted["offset_mapping"])


def test_a_pair_is_refused_where_nothing_would_stand_between_the_two(writer: Served) -> None:
    error = refusal(lambda: spelt(writer, TextPrompt(text="a"), TextPrompt(text="a", pair="b")))
    assert isinstance(error, InvalidRequest)
    assert error.field == "inputs[1].text_pair"


def test_a_control_token_in_a_text_is_text_if_that_is_asked_and_keeps_its_offsets(writer: Served) -> None:
    text = "a<|im_end|>b"
    parsed, literal = spelt(writer, TextPrompt(text=text), TextPrompt(text=text, parse_special_tokens=False))
    assert (parsed.ids[1], parsed.pieces[1], parsed.offsets[1]) == (2, b"<|im_end|>", (1, 11))
    assert 2 not in literal.ids
    assert [text[start:end].encode() for start, end in literal.offsets] == literal.pieces


def test_given_ids_come_back_with_their_pieces(writer: Served, reader: Served) -> None:
    [given] = spelt(writer, TokenPrompt(ids=(2, *LLAMA_IDS)))
    assert (given.ids, b"".join(given.pieces)) == ([2, *LLAMA_IDS], b"<|im_end|>" + LLAMA.encode())
    assert spelt(reader, TokenPrompt(ids=(101, 2075)))[0].pieces == [b"[CLS]", b"##ing"]


def test_a_chat_is_what_the_template_makes_of_it(writer: Served, smollm2_reference: Any) -> None:
    said = [{"role": "user", "content": "Say <|im_end|> or 🦙"}, {"role": "assistant", "content": "no"}]
    chat = Chat(messages=tuple(Message(**message) for message in said))
    [result] = spelt(writer, chat)
    rendered = smollm2_reference.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert b"".join(result.pieces).decode() == rendered
    assert result.ids.count(2) == rendered.count("<|im_end|>") - 1


def test_what_is_only_counted_is_counted_alike(writer: Served, mixed_texts: list[str]) -> None:
    inputs = [TextPrompt(text=text) for text in mixed_texts[:50]]
    assert spelt(writer, *inputs, TokenPrompt(ids=(1, 2)), with_ids=False) == [
        *[Tokenized(count=each.count) for each in spelt(writer, *inputs)],
        Tokenized(count=2),
    ]


def test_more_tokens_than_a_reply_lists_are_refused_and_still_counted(
    writer: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "MAX_LISTED_TOKENS", 3)
    fits, over = TextPrompt(text="one two three"), TextPrompt(text=" four")
    assert [each.count for each in spelt(writer, fits)] == [3]
    error = refusal(lambda: spelt(writer, fits, over))
    assert (type(error), error.field, error.metadata) == (
        ReplyTooLarge,
        "inputs[1]",
        {"tokens": "4", "max_tokens": "3"},
    )
    assert [each.count for each in spelt(writer, fits, over, with_ids=False)] == [3, 1]


@pytest.mark.parametrize("bad", [49152, 2**32 - 1])
def test_an_id_outside_the_vocabulary_is_refused_by_its_place(writer: Served, bad: int) -> None:
    error = refusal(lambda: texts(writer, [1], [1, bad]))
    assert isinstance(error, BadTokenId)
    assert (error.field, error.message) == ("inputs[1]", f"inputs[1] holds {bad}; ids go from 0 to 49151.")
    error = refusal(lambda: spelt(writer, TokenPrompt(ids=(1,)), TokenPrompt(ids=(bad,))))
    assert (type(error), error.field) == (BadTokenId, "inputs[1].token_ids")


def test_texts_are_those_worked_out_by_hand(writer: Served, reader: Served) -> None:
    ids = [104, 6541, 329, 1673, 1892, 3297, 267, 637, 99, 536, 304, 982]
    assert texts(writer, ids, LLAMA_IDS, []) == ["x != y . z , w 's do n't", LLAMA, ""]
    [hello] = spelt(reader, TextPrompt(text="Hello , world . don't"))
    assert texts(reader, hello.ids) == ["hello, world. don ' t"]
    assert texts(reader, hello.ids, skip=False) == ["[CLS] hello, world. don ' t [SEP]"]


@pytest.mark.parametrize("skip", [True, False])
def test_random_ids_read_as_the_library_and_a_stream_read_them(writer: Served, skip: bool) -> None:
    draw = random.Random(11)
    rows = [
        [draw.randrange(49152 if draw.random() < 0.9 else 17) for _ in range(draw.randint(0, 40))] for _ in range(1000)
    ]
    library = tokenizers.Tokenizer.from_str(writer.tokenizer.to_json())
    got = texts(writer, *rows, skip=skip)
    assert got == [library.decode(row, skip_special_tokens=skip) for row in rows]
    for row, text in zip(rows, got, strict=True):
        stream = writer.tokenizer.detokenizer(skip_special_tokens=skip)
        assert "".join(stream.push([token]) for token in row) + stream.finish() == text


def test_a_text_of_several_slices_is_read_as_one(writer: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "IDS_AT_A_TIME", 2)
    assert texts(writer, LLAMA_IDS) == [LLAMA]


@pytest.mark.parametrize("served", ["writer", "reader"])
def test_texts_that_would_not_fit_are_refused_by_place(served: str, request: pytest.FixtureRequest) -> None:
    model: Served = request.getfixturevalue(served)
    word = spelt(model, TextPrompt(text="hello", add_special_tokens=False))[0].ids
    assert texts(model, word, word, max_bytes=10) == ["hello", "hello"]
    error = refusal(lambda: texts(model, word, word, max_bytes=9))
    assert (type(error), error.field, error.metadata) == (ReplyTooLarge, "inputs[1]", {"max_bytes": "9"})


def read(file: TokenizerFile) -> bytes:
    with file.open() as source:
        return source.read()


def test_what_was_built_from_a_gguf_file_makes_the_same_ids_elsewhere(
    writer: Served, smollm2_reference: Any, mixed_texts: list[str]
) -> None:
    [file] = tokenizer_files(writer)
    assert file.name == "tokenizer.json"
    elsewhere = tokenizers.Tokenizer.from_str(read(file).decode())
    ids = [encoding.ids for encoding in elsewhere.encode_batch(mixed_texts)]
    assert ids == [each.ids for each in spelt(writer, *[TextPrompt(text=text) for text in mixed_texts])]
    assert ids == smollm2_reference(mixed_texts)["input_ids"]
    assert [elsewhere.decode(each) for each in ids] == texts(writer, *ids)


def test_a_folder_gives_the_files_that_its_texts_are_read_by(
    reader: Served, minilm: Path, mixed_texts: list[str], tmp_path: Path
) -> None:
    files = tokenizer_files(reader)
    assert {file.name for file in files} == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    for file in files:
        assert read(file) == (minilm / file.name).read_bytes()
        (tmp_path / file.name).write_bytes(read(file))
    elsewhere = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [each.ids for each in spelt(reader, *[TextPrompt(text=text) for text in mixed_texts])]
    assert elsewhere(mixed_texts)["input_ids"] == ids


def test_a_folder_gives_its_chat_templates_and_its_vocabulary_and_nothing_else(minilm: Path, tmp_path: Path) -> None:
    names = ("config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json")
    for name in names:
        (tmp_path / name).symlink_to(minilm / name)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("")
    (tmp_path / "secrets.txt").write_text("no")
    assert {file.name for file in tokenizer_files(opened(tmp_path))} == {
        *("vocab.txt", "tokenizer_config.json", "chat_template.jinja"),
        "additional_chat_templates/tool_use.jinja",
    }
    (tmp_path / "tokenizer.json").symlink_to(minilm / "tokenizer.json")
    assert "vocab.txt" not in {file.name for file in tokenizer_files(opened(tmp_path))}


def test_a_file_that_is_gone_is_said_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read: No such file"):
        TokenizerFile(name="tokenizer.json", content=tmp_path / "tokenizer.json").open()
