"""Proves how the command line behaves in a process of its own: results on one stream, the rest on the other, codes."""

import importlib.metadata
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from google.protobuf import json_format

from stretto.cli.main import COMMANDS, parser_of
from stretto.v1 import model_pb2

# Words of a line of examples: what it types stands before two spaces, the rest is said about it.
EXAMPLE = re.compile(r"^  (?P<typed>\S+(?: \S+)*)", re.MULTILINE)
# Nothing but the standard library and the script itself, as far as imports go.
BARE = """
import sys
ABSENT = {"grpc", "google", "numpy", "rich", "prompt_toolkit", "torch", "msgspec", "structlog"}
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
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
    assert all(f"\n  {name:<11} {command.summary}\n" in ran.stdout for name, command in COMMANDS.items())
    assert max(map(len, ran.stdout.splitlines())) <= 100
    assert ran.stdout.count("\n") < 40


def test_version_is_the_package_s() -> None:
    ran = bare("--version")
    assert (ran.returncode, ran.stdout) == (0, f"stretto {importlib.metadata.version('stretto')}\n")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "serve"])
def test_the_help_of_a_command_needs_only_the_standard_library(command: str) -> None:
    ran = bare(command, "--help")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"usage: stretto {command}")
    assert "examples:" in ran.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json(command: str) -> None:
    (json_flag,) = (line for line in help_of(command).splitlines() if line.startswith("  --json "))
    assert "JSON" in json_flag


def help_of(command: str | None) -> str:
    """The help of a command, or of the whole program."""
    parser = parser_of(command)
    told = io.StringIO()
    with redirect_stdout(told), pytest.raises(SystemExit):
        parser.parse_args([command, "--help"] if command else ["--help"])
    return told.getvalue()


def examples() -> list[str]:
    """What is typed in every line of examples of every help."""
    texts = [help_of(command).split("\nexamples:\n")[1].split("\n\n")[0] for command in (None, *COMMANDS)]
    return [found["typed"] for text in texts for found in EXAMPLE.finditer(text)]


def commands_in(typed: str) -> list[list[str]]:
    """The words of each stretto in a pipeline, as the shell hands them on."""
    words = shlex.shlex(typed, posix=True, punctuation_chars="|<>")
    words.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            found.append([])
        elif set(word) <= set("<>"):
            next(words)
        else:
            found[-1].append(word)
    return [words[1:] for words in found if words[0] == "stretto"]


@pytest.mark.parametrize("typed", examples())
def test_the_examples_of_the_help_can_be_typed(typed: str) -> None:
    commands = commands_in(typed)
    assert commands, f"no stretto in {typed!r}"
    for words in commands:
        options = parser_of(words[0]).parse_args(words)
        assert options.command == words[0]


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["generate", "hi"], "stretto[cli]"),
        (["chat"], "stretto[cli]"),
        (["score", "a", "b"], "stretto[cli]"),
        (["embed", "a", "--similarity"], "stretto[cli]"),
        (["tokenize", "a"], "stretto[cli]"),
        (["info"], "stretto[cli]"),
        (["models"], "stretto[cli]"),
        (["serve"], "stretto[serve]"),
    ],
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
        ["generate", "hi", "--logit-bias", "11"],
        ["generate", "hi", "--file", "prompts.txt", "--json"],
        ["generate", "--file", "prompts.txt"],
        ["generate", "hi", "--timeout", "-1"],
        ["embed", "a", "--file", "b"],
        ["embed", "a", "--json-input"],
        ["embed", "a", "--json", "--out", "vectors.npy"],
        ["embed", "a", "--pooling", "none"],
        ["embed", "a", "--encoding", "int8", "--out", "vectors.npy"],
        ["score", "a"],
        ["score", "a", "b", "--file", "items.jsonl"],
        ["score", "a", "b", "--token-logprobs"],
        ["tokenize", "a", "--offsets"],
        ["tokenize", "a", "--chat", "talk.json"],
        ["detokenize", "one"],
        ["serve", "--json"],
        ["embed", "a", "--out", "vectors.txt"],
        ["pull"],
    ],
)
def test_used_wrongly_is_exit_code_2(stretto, words: list[str]) -> None:
    ran = stretto(*words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Traceback" not in ran.stderr


def test_models_lists_what_is_loaded(stretto) -> None:
    ran = stretto("models")
    head, talker, reader = ran.stdout.splitlines()
    assert head.split()[:3] == ["model", "state", "tasks"]
    assert talker.split()[:4] == ["talker", "ready", "generate", "135M"]
    assert reader.split()[:3] == ["reader", "ready", "embed"]
    parsed = [json_format.Parse(line, model_pb2.Model()) for line in stretto("models", "--json").stdout.splitlines()]
    assert [model.id for model in parsed] == ["talker", "reader"]


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


def started(surroundings: dict[str, str], *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "stretto.cli.main", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings,
    )


@pytest.mark.parametrize(
    "words", [("generate", "many words " * 10_000), ("embed", "--file"), ("tokenize", "--count", "--file")]
)
def test_a_reader_that_leaves_ends_the_command_quietly(
    surroundings: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("some words\n" * 20_000)  # far more than a pipe holds
    process = started(surroundings, *words, *([str(file)] if words[-1] == "--file" else []))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), errors) == (0, b"")


def test_an_interrupt_is_exit_code_130_and_cancels(server, surroundings: dict[str, str]) -> None:
    process = started(surroundings, "generate", "endless story")
    assert process.stdout is not None
    assert process.stdout.read(5) == b"story"
    interrupt(process)
    assert server.left.get(timeout=10)


def test_an_interrupt_leaves_no_half_of_a_file(server, surroundings: dict[str, str], tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_text("one\nstall\n")
    process = started(surroundings, "embed", "--file", str(texts), "--out", str(out))
    eventually(lambda: server.requests and list(tmp_path.glob(".vectors.npy.*.part")))
    interrupt(process)
    assert list(tmp_path.iterdir()) == [texts]
    assert server.left.get(timeout=10)


def test_an_interrupt_ends_prompts_that_are_under_way(server, surroundings: dict[str, str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("slow\n" * 100)
    process = started(surroundings, "generate", "--file", str(prompts), "--json")
    eventually(lambda: len(server.requests) > 3)
    interrupt(process)


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.01)


def interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C, and what is expected of it; the process is done."""
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.read() == b"interrupted\n"
    process.stdout.close()
    process.stderr.close()


def test_a_server_that_dies_is_told_once_and_in_our_words(mortal, surroundings: dict[str, str]) -> None:
    process = started(surroundings | {"STRETTO_TARGET": mortal.target}, "generate", "endless story")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == b"story"
    mortal.die()
    assert process.wait(timeout=60) == 1
    (told,) = process.stderr.read().decode().splitlines()
    assert told.startswith(f"error: nothing answers at {mortal.target} (")
    assert told.endswith("Start a server:  stretto serve")
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (
            ["generate", "hi", "--temprature", "1"],
            "Did you mean --temperature?  stretto generate --help has the whole list.",
        ),
        (["generate", "hi", "--temp", "1"], "Did you mean --temperature?  stretto generate --help has the whole list."),
        (["info", "--zzz"], "stretto info --help has the whole list."),
        (["info", "more"], "stretto info --help has the whole list."),
    ],
)
def test_an_option_that_is_not_there_is_refused_never_guessed(stretto, words: list[str], advice: str) -> None:
    ran = stretto(*words)
    assert (ran.returncode, ran.stdout) == (2, "")
    first, second = ran.stderr.splitlines()
    assert first.startswith("error: unrecognized arguments: ")
    assert second.strip() == advice


def test_errors_are_coloured_on_a_terminal_unless_no_color_is_set(on_terminal) -> None:
    on_terminal("chta").expect("\x1b[1;31merror:\x1b[0m no command")
    assert on_terminal("chta", variables={"NO_COLOR": "1"}).expect("no command").endswith("error: no command")


def test_a_person_without_a_text_is_not_left_waiting(on_terminal) -> None:
    terminal = on_terminal("generate")
    terminal.expect("there is no text.")
    assert terminal.process.wait(timeout=30) == 2
