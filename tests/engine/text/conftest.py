"""Checkpoints for the tests of texts: the two small models, SmolLM2's tokenizer as files, and seeded mixed texts."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import pre_tokenizers

from stretto.engine.checkpoint.headers import Checkpoint, open_checkpoint
from stretto.engine.text.tokenizer import Tokenizer, load_tokenizer

PIECES = (
    *(
        "hello",
        "World",
        "don't",
        "I'M",
        " 12,345.67",
        "3333+777",
        "naïve café",
        "Kantō",
        "你好",
        "世界",
        "🦙",
        "👩‍👩‍👧",
        "é",
    ),
    *("    ", "\n\n", "\t", "\r\n", "\u00a0", "\u200b", "\x00", "\x07", "\ufffd", "\u2028", "...", " .", "x != y"),
    *(
        "def f(x):\n\treturn x",
        "<|im",
        "_end|>",
        "ǆ",
        "½",
        "ﬁne",
        "Ｈｅｌｌｏ",
        "각",
        "กำ",
        "हिन्दी",
        "\U0001f1e9\U0001f1ea",
    ),
    *("[UNK]", "##ing", "a" * 120),
)


@pytest.fixture(scope="session")
def mixed_texts() -> list[str]:
    """A thousand texts: English, Chinese, emoji, code, runs of blanks, control characters, digits, any code points."""
    draw = random.Random(7)
    texts = []
    for _ in range(1000):
        parts = draw.choices(PIECES, k=draw.randint(0, 12))
        parts += [chr(draw.choice([*range(0x20, 0xD800), *range(0xE000, 0x11000)])) for _ in range(draw.randint(0, 4))]
        draw.shuffle(parts)
        texts.append(draw.choice(["", " "]).join(parts))
    return texts


@pytest.fixture(scope="session")
def minilm_checkpoint(minilm: Path) -> Checkpoint:
    return open_checkpoint(minilm)


@pytest.fixture(scope="session")
def minilm_tokenizer(minilm_checkpoint: Checkpoint) -> Tokenizer:
    return load_tokenizer(minilm_checkpoint)


@pytest.fixture(scope="session")
def smollm2_checkpoint(smollm2_gguf: Path) -> Checkpoint:
    return open_checkpoint(smollm2_gguf)


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_checkpoint: Checkpoint) -> Tokenizer:
    return load_tokenizer(smollm2_checkpoint)


@pytest.fixture(scope="session")
def smollm2_reference(smollm2_gguf: Path) -> Any:
    """transformers' own reading of the same GGUF file, but for tokenizer.ggml.pre, which it does not look at.

    SmolLM2's published tokenizer.json splits digits off before GPT-2's split.
    """
    reference = transformers.AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return reference


@pytest.fixture
def as_folder(
    smollm2_checkpoint: Checkpoint, smollm2_tokenizer: Tokenizer, smollm2_reference: Any, tmp_path: Path
) -> Callable[..., Checkpoint]:
    """SmolLM2's tokenizer as transformers saves it, with changes to tokenizer.json and tokenizer_config.json."""

    def build(*, tokenizer: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> Checkpoint:
        smollm2_reference.save_pretrained(tmp_path)
        saved = {}
        for name, changes in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
            saved[name] = json.loads((tmp_path / name).read_text("utf-8")) | (changes or {})
            (tmp_path / name).write_text(json.dumps(saved[name]), "utf-8")
        template = saved["tokenizer_config.json"].get("chat_template", smollm2_reference.chat_template)
        (tmp_path / "chat_template.jinja").write_text(template, "utf-8")
        return dataclasses.replace(
            smollm2_checkpoint,
            format="safetensors",
            folder=tmp_path,
            metadata={},
            generation={"eos_token_id": [2, 0]},
            tokenizer_config=saved["tokenizer_config.json"],
            chat_templates={"": template},
        )

    return build
