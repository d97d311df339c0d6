"""Proves that sentence-transformers' files are read as it reads them, and refused where we would differ."""

import json
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling

from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.checkpoint.sentence import FLAGS, MODES
from stretto.engine.errors import CheckpointError
from stretto.engine.requests import Pooling


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value))


def modules(*kinds: str, inner: str = "") -> list[dict[str, Any]]:
    paths = {"Transformer": inner, "Pooling": "1_Pooling"}
    return [
        {
            "idx": i,
            "name": str(i),
            "path": paths.get(kind, f"{i}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    return caught.value.message


def test_a_real_model_is_read_as_its_library_reads_it(minilm: Path) -> None:
    ours, theirs = open_checkpoint(minilm).sentence, SentenceTransformer(str(minilm), device="cpu")
    assert ours.pooling == theirs[1].pooling_mode == "mean"
    assert ours.max_tokens == theirs.max_seq_length == 256
    assert ours.normalize
    assert (dict(ours.prompts), ours.default_prompt) == ({}, None)


def test_a_plain_directory_says_nothing(bert: Path) -> None:
    ours = open_checkpoint(bert).sentence
    assert (ours.pooling, ours.normalize, ours.max_tokens, ours.default_prompt) == (None, None, None, None)


@pytest.mark.parametrize("mode", TheirPooling.POOLING_MODES)
@pytest.mark.parametrize("new", [True, False])
def test_every_pooling_of_the_library_is_known_in_both_spellings(bert: Path, mode: str, new: bool) -> None:
    flags = {flag: named == mode for flag, named in FLAGS.items()}
    said = {"word_embedding_dimension": 32} | ({"pooling_mode": mode} if new else flags)
    write(bert, {"modules.json": modules("Transformer", "Pooling"), "1_Pooling/config.json": said})
    theirs = TheirPooling.load(str(bert), subfolder="1_Pooling")
    ours = open_checkpoint(bert).sentence
    assert ours.pooling is MODES[str(theirs.pooling_mode)]
    assert ours.normalize is False


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "asks for cls and mean"),
        ({"pooling_mode": ["mean", "max"]}, "asks for mean and max"),
        ({"pooling_mode": "median"}, "asks for the pooling ['median'], which stretto does not have"),
        ({"pooling_mode_median_tokens": True}, "asks for the pooling ['pooling_mode_median_tokens']"),
        ({"pooling_mode": 7}, "asks for the pooling 7"),
        ({"pooling_mode_cls_token": False}, "asks for no pooling mode at all"),
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt false"),
        ({"pooling_mode": "mean", "word_embedding_dimension": 64}, "says vectors of 64 dimensions; the model makes 32"),
    ],
)
def test_a_pooling_that_stretto_does_not_do_is_refused(bert: Path, said: dict[str, Any], message: str) -> None:
    write(bert, {"modules.json": modules("Transformer", "Pooling"), "1_Pooling/config.json": said})
    assert message in refused(bert)
    assert "bert/1_Pooling/config.json" in refused(bert)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (modules("Transformer", "Pooling", "Dense"), "lists the module sentence_transformers.models.Dense"),
        (modules("Pooling", "Transformer"), "lists Pooling, Transformer"),
        (modules(), "lists nothing"),
        ([{"type": "x"}], "should be a list of modules"),
        ({}, "should be a list of modules"),
        (modules("Transformer", inner="/etc"), "puts a module at '/etc', outside"),
        (modules("Transformer", inner="../.."), "puts a module at '../..', outside"),
    ],
)
def test_modules_that_stretto_does_not_run_are_refused(bert: Path, listed: Any, message: str) -> None:
    write(bert, {"modules.json": listed, "1_Pooling/config.json": {"pooling_mode": "mean"}})
    assert message in refused(bert)


def test_a_transformer_in_its_own_folder_is_found(bert: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    bert.rename(outer / "0_Transformer")
    write(
        outer,
        {
            "modules.json": modules("Transformer", "Pooling", "Normalize", inner="0_Transformer"),
            "1_Pooling/config.json": {"pooling_mode_cls_token": True},
            "0_Transformer/sentence_bert_config.json": {"max_seq_length": 16},
            "config_sentence_transformers.json": {"prompts": {"query": "q: "}, "default_prompt_name": "query"},
        },
    )
    opened = open_checkpoint(outer)
    assert opened.folder == outer / "0_Transformer"
    assert opened.where == "0_Transformer/config.json"
    assert opened.sentence.pooling is Pooling.CLS
    assert opened.sentence.normalize is True
    assert opened.sentence.max_tokens == 16
    assert (opened.sentence.prompts, opened.sentence.default_prompt) == ({"query": "q: "}, "query")
    assert {file.relative_to(outer).as_posix() for file in opened.files} == {
        "modules.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "0_Transformer/config.json",
        "0_Transformer/model.safetensors",
        "0_Transformer/sentence_bert_config.json",
    }


@pytest.mark.parametrize(
    ("of_tokenizer", "of_module", "expected"),
    [
        (48, None, 48),
        (10**30, None, None),
        (10**30, 16, 16),
        (512, None, 64),
        (48, 16, 16),
        (48, 500, 48),
        (None, 0, None),
    ],
)
def test_the_least_sane_limit_counts(
    bert: Path, of_tokenizer: int | None, of_module: int | None, expected: int | None
) -> None:
    write(bert, {"tokenizer_config.json": {"model_max_length": of_tokenizer}})
    write(bert, {"sentence_bert_config.json": {"max_seq_length": of_module}})
    assert open_checkpoint(bert).sentence.max_tokens == expected


def test_lower_case_that_only_the_module_asks_for_is_refused(bert: Path) -> None:
    write(bert, {"sentence_bert_config.json": {"max_seq_length": 8, "do_lower_case": True}})
    assert "says do_lower_case, and the tokenizer does not" in refused(bert)
    write(bert, {"tokenizer_config.json": {"do_lower_case": True}})
    assert open_checkpoint(bert).sentence.max_tokens == 8


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"prompts": {"query": "q"}, "default_prompt_name": "passage"}, "'passage'; it should be one of the prompts"),
        ({"prompts": ["q"]}, "prompts should map names to texts"),
        ({"prompts": {"query": 1}}, "prompts should map names to texts"),
    ],
)
def test_wrong_prompts_are_refused(bert: Path, said: dict[str, Any], message: str) -> None:
    write(bert, {"config_sentence_transformers.json": said})
    assert message in refused(bert)
