"""Proves how the command line behaves in a process of its own: results on one stream, the rest on the other, codes."""

import importlib.metadata
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from google.protobuf import json_format

from stretto.v1 import embedding_pb2, generation_pb2, model_pb2

COMMANDS = ["serve", "chat", "generate", "embed", "models", "inspect", "pull", "token"]
# Nothing but the standard library and the script itself, as far as imports go.
BARE = """
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"grpc", "google", "numpy", "rich", "prompt_toolkit", "torch", "msgspec"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Bare())
from stretto.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def bare(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", BARE, *words], capture_output=True, encoding="utf-8", timeout=60)


def test_help_names_every_command_and_needs_only_the_standard_library() -> None:
    ran = bare("--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(f"    {command} " in ran.stdout for command in COMMANDS)


def test_version_is_the_package_s() -> None:
    ran = bare("--version")
    assert (ran.returncode, ran.stdout) == (0, f"stretto {importlib.metadata.version('stretto')}\n")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "serve"])
def test_the_help_of_a_command_needs_only_the_standard_library(command: str) -> None:
    ran = bare(command, "--help")
    assert ran.returncode == 0, ran.stderr
    assert "examples:" in ran.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [(["generate", "hi"], "stretto[cli]"), (["chat"], "stretto[cli]"), (["models"], "stretto[cli]")],
)
def test_a_missing_library_is_named_with_its_extra(words: list[str], extra: str) -> None:
    ran = bare(*words)
    assert ran.returncode == 2
    assert f"error: stretto {words[0]} needs " in ran.stderr
    assert f"pip install '{extra}'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_mistyped_command_is_told_what_was_meant(stretto) -> None:
    ran = stretto("genrate", "hi")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: no command 'genrate'.\n       Did you mean generate?")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--nonsense"],
        ["generate", "hi", "--max-tokens", "many"],
        ["generate", "hi", "--logprobs"],
        ["generate", "hi", "--timeout", "-1"],
        ["embed", "a", "--file", "b"],
        ["embed", "a", "--json", "--similarity"],
        ["embed", "a", "--out", "vectors.txt"],
        ["pull"],
    ],
)
def test_used_wrongly_is_exit_code_2(stretto, words: list[str]) -> None:
    ran = stretto(*words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Traceback" not in ran.stderr


def test_generate_prints_the_answer_and_nothing_else(stretto) -> None:
    ran = stretto("generate", "one two three", "--max-tokens", "3")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "three two one\n", "")


def test_generate_reads_standard_input(stretto) -> None:
    assert stretto("generate", text="zwei ä\n").stdout == "ä zwei\n"
    assert stretto("generate", "-", text="a b").stdout == "b a\n"


def test_generate_says_when_the_text_was_cut(stretto) -> None:
    ran = stretto("generate", "a b", "--no-stream")
    assert (ran.stdout, ran.stderr) == ("b a\n", "note: the text was too long; 2 of its tokens were cut.\n")


def test_several_candidates_are_told_apart(stretto) -> None:
    assert stretto("generate", "a b", "--candidates", "2").stdout == "[1]\nb a\n[2]\nb a\n"


def test_the_flags_reach_the_server(stretto, server) -> None:
    words = "--model talker --max-tokens 8 --min-tokens 1 --temperature 0.5 --top-k 3 --top-p 0.5 --min-p 0.25 --seed 7"
    ran = stretto("generate", "hi", *words.split(), "--stop", "a", "--stop", "b", "--ignore-eos", "--truncate", "end")
    assert ran.returncode == 0, ran.stderr
    (request,) = server.requests
    sampling, stopping = request.config.sampling, request.config.stopping
    assert (request.model, sampling.temperature, sampling.top_k, sampling.top_p) == ("talker", 0.5, 3, 0.5)
    assert (sampling.min_p, sampling.seed) == (0.25, 7)
    assert (stopping.max_tokens, stopping.min_tokens, list(stopping.stop_strings)) == (8, 1, ["a", "b"])
    assert stopping.ignore_eos
    assert request.overflow_policy == 2


def test_json_is_the_wire_format_s(stretto) -> None:
    ran = stretto("generate", "one two", "--json")
    reply = json_format.Parse(ran.stdout, generation_pb2.GenerateResponse())
    assert reply.candidates[0].text == "two one"
    assert json.loads(ran.stdout)["candidates"][0]["index"] == 0  # zeros are there, under the names of the protos
    assert ran.stdout.count("\n") == 1


def test_models_lists_what_is_loaded(stretto) -> None:
    ran = stretto("models")
    head, talker, reader = ran.stdout.splitlines()
    assert head.split()[:3] == ["model", "state", "tasks"]
    assert talker.split()[:4] == ["talker", "ready", "generate", "135M"]
    assert reader.split()[:3] == ["reader", "ready", "embed"]
    parsed = [json_format.Parse(line, model_pb2.Model()) for line in stretto("models", "--json").stdout.splitlines()]
    assert [model.id for model in parsed] == ["talker", "reader"]


def test_similarity_is_the_cosine_of_every_pair(stretto) -> None:
    ran = stretto("embed", "A man eats food.", "A person\nis eating a meal.", "I", "--similarity")
    head, *rows = ran.stdout.splitlines()
    assert head.split() == ["1", "2", "3"]
    assert [row[:10] for row in rows] == ["1  A man \u2026", "2  A pers\u2026", "3  I      "]
    vectors = [(16, 4, 1), (27, 6, 1), (1, 1, 1)]
    for row, first in zip(rows, vectors, strict=True):
        cosines = [float(numpy.dot(first, other)) / (math.hypot(*first) * math.hypot(*other)) for other in vectors]
        assert row.split()[-3:] == [f"{cosine:.2f}" for cosine in cosines]


def test_lines_of_a_pipe_become_vectors_in_order(stretto) -> None:
    texts = ["x" * length for length in range(1, 301)]  # five requests, some at once
    ran = stretto("embed", text="\n".join(texts) + "\n")
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [[len(text), 1, 1] for text in texts]
    ran = stretto("embed", "--json", text="\n".join(texts))
    results = [json_format.Parse(line, embedding_pb2.EmbedResult()) for line in ran.stdout.splitlines()]
    assert [result.embedding.vectors[0].values[0] for result in results] == [len(text) for text in texts]


def test_a_text_that_fails_is_named_by_its_line_and_the_exit_code_is_1(stretto, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("good\nfail here\nfine too\n")
    ran = stretto("embed", "--file", str(file))
    assert ran.returncode == 1
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [[4, 1, 1], None, [8, 2, 1]]
    assert ran.stderr == f"error: line 2 of {file}: 'fail here' is too long.\n"


def test_vectors_are_written_whole_and_without_a_bar(stretto, tmp_path: Path) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    file.write_text("\n".join("y" * length for length in range(1, 101)))
    ran = stretto("embed", "--file", str(file), "--out", str(out))
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == f"{out}: 100 vectors of 3 dimensions, float32\n"
    numpy.testing.assert_array_equal(numpy.load(out, allow_pickle=False)[:, 0], numpy.arange(1, 101))
    assert sorted(tmp_path.iterdir()) == [file, out]


def test_vectors_with_a_failure_among_them_leave_what_was_there(stretto, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    out.write_bytes(b"older")
    ran = stretto("embed", "good", "fail", "--out", str(out))
    assert ran.returncode == 1
    assert "1 of 2 texts have no vector" in ran.stderr
    assert out.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [out]


def test_bytes_that_are_no_text_are_refused_by_their_line(server, tmp_path: Path, stretto) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(b"good\nbad \xff\n")
    ran = stretto("embed", "--file", str(file))
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: line 2 of {file} is not UTF-8: byte 4 is 0xff.")


def test_an_error_of_the_server_says_where_it_is_from_and_what_to_do(stretto, server) -> None:
    ran = stretto("generate", "fail:INVALID_ARGUMENT:INVALID_PARAMETER")
    assert (ran.returncode, ran.stdout) == (1, "")
    first, *rest = ran.stderr.splitlines()
    assert first == "error: a message with 1.7."
    assert f"(INVALID_ARGUMENT from {server.target}, request " in rest[-1]
    assert "Traceback" not in ran.stderr
    assert "Traceback" in stretto("generate", "fail:INTERNAL:", "--debug").stderr


def test_a_server_that_is_not_there_is_said_with_what_to_do(stretto) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = stretto("models", "--target", target)
    assert ran.returncode == 1
    assert ran.stderr == f"error: nothing answers at {target} (connection refused).  Start a server:  stretto serve\n"


def test_a_file_that_is_not_there_is_an_error_without_a_traceback(stretto) -> None:
    ran = stretto("embed", "--file", "/nowhere/texts.txt")
    assert (ran.returncode, ran.stderr) == (1, "error: /nowhere/texts.txt: No such file or directory.\n")


def started(server, *words: str, **options) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "stretto.cli.main", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "STRETTO_TARGET": server.target},
        **options,
    )


def test_a_reader_that_leaves_ends_the_command_quietly(server) -> None:
    process = started(server, "generate", "many words " * 10_000)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), errors) == (0, b"")


def test_an_interrupt_is_exit_code_130_and_cancels(server) -> None:
    process = started(server, "generate", "endless story")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == b"story"
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert b"Traceback" not in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert server.left.get(timeout=10)


def test_a_server_that_dies_is_told_once_and_in_our_words(mortal) -> None:
    process = started(mortal, "generate", "endless story")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == b"story"
    mortal.stopping.set()
    mortal.die()
    assert process.wait(timeout=60) == 1
    first, second = process.stderr.read().decode().splitlines()
    assert first.startswith(f"error: the connection to {mortal.target} broke: ")
    assert second.startswith(f"       (UNAVAILABLE from {mortal.target}, request ")
    process.stdout.close()
    process.stderr.close()


def test_inspect_shows_a_checkpoint_offline(stretto, minilm: Path) -> None:
    ran = stretto("inspect", str(minilm), "--json")
    facts = json.loads(ran.stdout)
    config = json.loads((minilm / "config.json").read_text())
    assert facts["architecture"] == config["architectures"][0]
    assert (facts["width"], facts["vocab_size"]) == (config["hidden_size"], config["vocab_size"])
    assert (facts["default_pooling"], facts["tasks"], facts["chat_templates"]) == ("mean", ["embed"], [])
    sums = subprocess.run(
        ["sha256sum", *(str(minilm / file["path"]) for file in facts["files"])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [file["sha256"] for file in facts["files"]] == [line.split()[0] for line in sums.stdout.splitlines()]
    assert "pooling         mean" in stretto("inspect", str(minilm), "--no-hashes").stdout


def test_inspect_fetches_nothing(stretto, tmp_path: Path) -> None:
    ran = stretto("inspect", "all-minilm-l6-v2", variables={"STRETTO_CACHE": str(tmp_path)})
    assert ran.returncode == 1
    assert ran.stderr == (
        "error: all-minilm-l6-v2 is not on this machine; inspect fetches nothing.\n"
        "       Fetch it:  stretto pull all-minilm-l6-v2\n"
    )


def test_a_name_that_means_nothing_is_told_what_it_may_have_meant(stretto) -> None:
    ran = stretto("inspect", "smolm2-135m-instruct")
    assert ran.returncode == 1
    assert "Did you mean smollm2-135m-instruct?" in ran.stderr


def test_the_catalogue_is_listed_without_a_server(stretto, tmp_path: Path) -> None:
    ran = stretto(
        "models", "--catalogue", "--json", variables={"STRETTO_CACHE": str(tmp_path), "STRETTO_TARGET": "no:1"}
    )
    entries = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2"} <= {entry["name"] for entry in entries}
    assert all(entry["fetched"] == [] for entry in entries)


def test_pull_uses_what_is_in_the_cache(stretto, minilm: Path) -> None:
    ran = stretto("pull", "./nowhere-at-all")
    assert ran.returncode == 1
    assert "no model './nowhere-at-all'" in ran.stderr
    ran = stretto("pull", str(minilm), "--json")
    assert json.loads(ran.stdout)["path"] == str(minilm)


def test_a_terminal_shows_how_fast_texts_go_and_a_pipe_does_not(on_terminal, tmp_path: Path) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    file.write_text("some words\n" * 500)
    terminal = on_terminal("embed", "--file", str(file), "--out", str(out))
    assert "500/500" in terminal.expect("500 vectors of 3 dimensions")
    assert numpy.load(out, allow_pickle=False).shape == (500, 3)


def test_errors_are_coloured_on_a_terminal_unless_no_color_is_set(on_terminal) -> None:
    on_terminal("chta").expect("\x1b[1;31merror:\x1b[0m no command")
    assert on_terminal("chta", variables={"NO_COLOR": "1"}).expect("no command").endswith("error: no command")


def test_a_person_without_a_text_is_not_left_waiting(on_terminal) -> None:
    terminal = on_terminal("generate")
    terminal.expect("there is no text.")
    assert terminal.process.wait(timeout=30) == 2
