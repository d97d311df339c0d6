"""The command line against the whole server with the two real models: what a person types, and what they read."""

import base64
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def stretto(server: Any) -> Run:
    def run(*words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "stretto.cli.main", *words],
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            env=os.environ | {"STRETTO_TARGET": server.target, "NO_COLOR": "1"},
        )

    return run


def test_a_chat_answers_with_its_figures(stretto: Run) -> None:
    ran = stretto("chat", text="What is the capital of France?\n")
    assert (ran.returncode, ran.stdout) == (0, "The capital of France is Paris.\n")
    assert re.search(r"  \d+ tokens · [\d.]+ s · \d+ tok/s · first token \d+ ms · prompt \d+ tokens", ran.stderr)


def test_paraphrases_are_similar_and_strangers_are_not(stretto: Run) -> None:
    texts = ("A man eats food.", "A person is eating a meal.", "The stock market fell.")
    head, *rows = stretto("embed", *texts, "--similarity").stdout.splitlines()
    assert head.split() == ["1", "2", "3"]
    cosines = [list(map(float, row.split()[-3:])) for row in rows]
    assert [row[index] for index, row in enumerate(cosines)] == [1, 1, 1]
    assert cosines[0][1] > 0.7 > 0.2 > cosines[0][2]


def test_what_the_model_says_itself_scores_best(stretto: Run) -> None:
    prompt = "The capital of France is"
    said = stretto("generate", prompt, "--max-tokens", "1").stdout.removesuffix("\n")
    ran = stretto("score", prompt, " Lyon", said, "--json")
    lyon, own = json.loads(ran.stdout)["item"]["continuations"]
    assert (own["is_greedy"], lyon["is_greedy"]) == (True, False)
    assert own["logprob"] > lyon["logprob"]
    assert own["perplexity"] == pytest.approx(math.exp(-own["logprob"]), rel=1e-6)


def test_ids_become_the_text_again_and_a_saved_chat_is_counted(stretto: Run, tmp_path: Path) -> None:
    text = "Zwölf Boxkämpfer jagen\tViktor; 42."
    mine = ("--model", "smollm2-135m-instruct")
    ran = stretto("tokenize", text, "--ids", *mine)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert stretto("detokenize", *mine, text=ran.stdout).stdout == f"{text}\n"
    pieces = json.loads(stretto("tokenize", text, "--json", *mine).stdout)["pieces"]
    assert b"".join(map(base64.b64decode, pieces)).decode() == text
    talk = tmp_path / "talk.json"
    told = stretto("chat", text=f"Hello\n/save {talk}\n").stderr
    (prompt,) = re.findall(r"prompt (\d+) tokens", told)
    counted = stretto("tokenize", "--chat", str(talk), "--count", *mine)
    assert counted.returncode == 0, counted.stderr
    assert int(counted.stdout) > int(prompt)


def test_info_is_what_the_server_was_told(stretto: Run) -> None:
    info = json.loads(stretto("info", "--json").stdout)
    assert info["version"] == importlib.metadata.version("stretto")
    assert info["max_inputs_per_request"] == 2048
    assert "2,048 texts" in stretto("info").stdout


def test_a_model_that_cannot_do_it_is_told_with_those_that_can(stretto: Run) -> None:
    ran = stretto("generate", "hi", "--model", "all-minilm-l6-v2")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert " ".join(ran.stderr.split()).startswith(
        "error: all-minilm-l6-v2 cannot generate; it can: embed. Loaded models that can: smollm2-135m-instruct. "
    )


def test_a_value_out_of_range_is_told_with_the_range_and_where_it_was_refused(stretto: Run, server: Any) -> None:
    ran = stretto("generate", "hi", "--top-p", "1.7")
    assert (ran.returncode, ran.stdout) == (1, "")
    first, second = ran.stderr.splitlines()
    assert first == "error: config.sampling.top_p must be in (0, 1]; got 1.7."
    assert re.fullmatch(rf"       \(INVALID_ARGUMENT from {server.target}, request [0-9a-f]+\)", second)
