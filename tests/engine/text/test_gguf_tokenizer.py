"""A tokenizer out of a GGUF file's key-values is the one it means, and a file that lacks something is refused."""

import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.errors import CheckpointError
from stretto.engine.text.gguf_tokenizer import read_gguf_tokenizer
from stretto.engine.text.tokenizer import Tokenizer, gguf_tokenizer

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def _load(metadata: Mapping[str, Any]) -> Tokenizer:
    return gguf_tokenizer(metadata, (), "model.gguf")


def _metadata(**values: Any) -> dict[str, Any]:
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def _sentencepiece(**changes: Any) -> dict[str, Any]:
    """A small vocabulary with scores: three control tokens, all bytes, some pieces, one user-defined token."""
    pieces = [
        SPACE,
        *"abcdeé",
        "ab",
        "bc",
        "abc",
        SPACE + "a",
        SPACE + "ab",
        "cd",
        "de",
        "cde",
        SPACE + "abc",
        SPACE * 2,
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "[tool]"]
    draw = random.Random(1)
    scores = [0.0] * 259 + [float(-draw.randint(1, 10_000)) for _ in pieces] + [0.0]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces) + [USER_DEFINED]
    values = {
        "model": "llama",
        "tokens": tokens,
        "scores": scores,
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return _metadata(**(values | changes))


def _joined_by_score(text: str, metadata: Mapping[str, Any]) -> list[int]:
    """Sentencepiece's way, slowly: again and again join the two neighbours whose whole has the best score."""
    scores = {
        token: score
        for token, score, kind in zip(
            *(metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")), strict=True
        )
        if kind == NORMAL
    }
    ids = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    parts = list(text.replace(" ", SPACE))
    while True:
        pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            return [i for part in parts for i in ([ids[part]] if part in ids else [3 + byte for byte in part.encode()])]
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_are_those_of_joining_by_score(prefix: bool) -> None:
    metadata = _sentencepiece(add_space_prefix=prefix)
    tokenizer = _load(metadata)
    draw = random.Random(2)
    for _ in range(1000):
        text = "".join(draw.choices("abcde  é世🦙", k=draw.randint(1, 20)))
        [ids] = tokenizer.encode([text], add_special_tokens=False)
        assert ids == _joined_by_score(" " * prefix + text, metadata)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_sentencepiece_knows_its_control_and_user_defined_tokens() -> None:
    tokenizer = _load(_sentencepiece())
    assert (tokenizer.special_ids, tokenizer.head, tokenizer.tail) == (frozenset({1, 2}), (1,), ())
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.unknown_id, tokenizer.generates) == (
        1,
        frozenset({2}),
        0,
        True,
    )
    [ids] = tokenizer.encode(["a[tool]</s>"], add_special_tokens=False, parse_special_tokens=False)
    assert tokenizer.id_of("[tool]") in ids
    assert 2 not in ids


def test_the_file_says_which_special_tokens_wrap_a_text() -> None:
    tokenizer = _load(_sentencepiece(add_bos_token=False, add_eos_token=True))
    assert (tokenizer.head, tokenizer.tail) == ((), (2,))
    assert tokenizer.encode(["a"], add_special_tokens=True)[0][-1] == 2


def test_control_tokens_that_end_a_turn_by_their_name_end_a_text() -> None:
    metadata = _sentencepiece()
    metadata["tokenizer.ggml.tokens"][1] = "<|im_end|>"
    assert _load(metadata).eos_ids == {1, 2}


def test_wordpiece_is_the_vocabulary_that_the_file_spells_with_blanks(minilm: Path, mixed_texts: list[str]) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    pieces = sorted(reference.get_vocab(), key=reference.get_vocab().__getitem__)
    special = set(reference.all_special_tokens)
    tokens = [p if p in special else p[2:] if p.startswith("##") else SPACE + p for p in pieces]
    kinds = [CONTROL if piece in special else NORMAL for piece in pieces]
    tokenizer = _load(
        _metadata(model="bert", tokens=tokens, token_type=kinds, cls_token_id=101, seperator_token_id=102)
    )
    ours = tokenizer.encode(mixed_texts, add_special_tokens=True)
    assert ours == [reference(text, truncation=False, padding=False)["input_ids"] for text in mixed_texts]
    assert (tokenizer.head, tokenizer.tail, tokenizer.generates) == ((101,), (102,), False)


def test_gpt2_splitting_equals_transformers(
    smollm2_checkpoint: Checkpoint, smollm2_gguf: Path, mixed_texts: list[str]
) -> None:
    """transformers does not look at tokenizer.ggml.pre: it always splits as GPT-2 does."""
    reference = transformers.AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    tokenizer = _load({**smollm2_checkpoint.metadata, "tokenizer.ggml.pre": "gpt-2"})
    assert tokenizer.encode(mixed_texts, add_special_tokens=True) == [
        reference(text)["input_ids"] for text in mixed_texts
    ]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["12345", " words", "  ", " x", "!?\n\n"]),
        ("smollm", ["1", "2", "3", "4", "5", " words", "  ", " x", "!?\n\n"]),
        ("llama-bpe", ["123", "45", " words", "  ", " x", "!?\n\n"]),
        ("qwen2", ["1", "2", "3", "4", "5", " words", "  ", " x", "!?\n\n"]),
    ],
)
def test_each_way_of_splitting_cuts_numbers_its_own_way(
    smollm2_checkpoint: Checkpoint, pre: str, pieces: list[str]
) -> None:
    library = read_gguf_tokenizer({**smollm2_checkpoint.metadata, "tokenizer.ggml.pre": pre}, "model.gguf")
    text = "12345 words   x!?\n\n"
    split = [text[start:stop] for _, (start, stop) in library.pre_tokenizer.pre_tokenize_str(text)]
    joined = [*pieces[:-1], "!?", "\n\n"] if pre in ("gpt-2", "smollm") else pieces
    assert split == joined


def test_llama3_adds_its_first_token_and_prefers_whole_words(smollm2_checkpoint: Checkpoint) -> None:
    metadata = {k: v for k, v in smollm2_checkpoint.metadata.items() if k != "tokenizer.ggml.add_bos_token"}
    library = read_gguf_tokenizer({**metadata, "tokenizer.ggml.pre": "llama-bpe"}, "model.gguf")
    assert isinstance(library.model, tokenizers.models.BPE)
    assert library.model.ignore_merges
    assert library.encode("hi").ids[0] == 1


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model", None, "has no tokenizer.ggml.model"),
        ("model", "rwkv", "tokenizer.ggml.model is 'rwkv'; stretto reads gpt2, llama, bert"),
        ("pre", None, "has no tokenizer.ggml.pre"),
        (
            "pre",
            "deepseek-llm",
            "tokenizer.ggml.pre is 'deepseek-llm', a way of splitting text that stretto does not have",
        ),
        ("tokens", None, "has no tokenizer.ggml.tokens"),
        ("tokens", "abc", "tokens is 'abc'; it should be a list"),
        ("tokens", ["a", 1], "tokens holds '1'; each should be a str"),
        ("token_type", [1], "token_type has 1 entries; tokenizer.ggml.tokens has 49152"),
        ("merges", None, "has no tokenizer.ggml.merges"),
        ("merges", ["ab"], "merges holds 'ab'; a merge is two tokens and a blank"),
        ("merges", ["qqqqqq zzzzzz"], "cannot be built"),
        ("add_bos_token", 1, "add_bos_token is '1'; it should be a bool"),
        ("bos_token_id", 70_000, "bos_token_id is 70000; the vocabulary has 49152 tokens"),
        ("eos_token_id", "x", "eos_token_id is 'x'; it should be a token id"),
    ],
)
def test_a_file_that_lacks_something_is_refused_by_name(
    smollm2_checkpoint: Checkpoint, key: str, value: Any, said: str
) -> None:
    metadata = {**smollm2_checkpoint.metadata, f"tokenizer.ggml.{key}": value}
    if value is None:
        del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(CheckpointError) as caught:
        _load(metadata)
    assert said in caught.value.message


def test_a_token_that_is_there_twice_is_refused() -> None:
    metadata = _sentencepiece()
    metadata["tokenizer.ggml.tokens"][-1] = "ab"
    with pytest.raises(CheckpointError, match="holds 'ab' twice"):
        _load(metadata)
