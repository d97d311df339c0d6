"""Proves that what the README shows can be run: its Python, its commands against a real server, its make targets."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# What the fresh machine of .ci/run does, or what needs another machine than the test's.
DONE_ELSEWHERE = {"git", "cd", "pip", "sudo", "docker"}
# Long enough for a slow machine's answer, short enough to notice a command that waits for ever.
SECONDS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of the README."""

    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"README.md:{self.line}"


def blocks() -> list[Block]:
    text = README.read_text()
    return [
        Block(language=found["language"], text=found["text"], line=text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


def commands() -> list[tuple[str, str]]:
    """Every `$ command` of the console blocks, with where it stands; a backslash joins lines."""
    found = []
    for block in (block for block in blocks() if block.language == "console"):
        joined = block.text.replace("\\\n", " ")
        found += [(str(block), line.removeprefix("$ ")) for line in joined.splitlines() if line.startswith("$ ")]
    return found


@pytest.fixture
def surroundings(server_target: str, stretto: Path) -> dict[str, str]:
    """What a reader's shell has once the server runs and .venv is active."""
    path = f"{stretto.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"STRETTO_TARGET": server_target, "PATH": path, "NO_COLOR": "1"}


def test_the_readme_shows_the_two_commands_and_the_client() -> None:
    shown = [command.split(" #")[0].strip() for _, command in commands()]
    assert "make serve" in shown
    assert "make test" in shown
    assert any("stretto.client" in block.text for block in blocks() if block.language == "python")


def test_every_block_of_the_readme_is_of_a_kind_that_is_tested_or_is_only_text() -> None:
    known = {"python", "console", "text"}
    assert [f"{block}: {block.language!r}" for block in blocks() if block.language not in known] == []


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "python"], ids=str)
def test_python_in_the_readme_runs(block: Block, surroundings: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.text],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("where", "command"), commands())
def test_commands_in_the_readme_run(
    where: str, command: str, surroundings: dict[str, str], root: Path, tmp_path: Path
) -> None:
    command = command.replace("127.0.0.1:50051", surroundings["STRETTO_TARGET"])
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        run(["make", "--dry-run", *words[1:]], cwd=root, environment=surroundings)
    elif words[0] in DONE_ELSEWHERE:
        return
    elif words[:2] == ["stretto", "serve"]:
        # The server of this test is one already; here its arguments are read and checked, no more.
        run([*words, "--print-config"], cwd=tmp_path, environment=surroundings)
    else:
        assert "stretto" in words or words[0] == "buf", f"{where}: this test does not know how to try {command!r}"
        run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, environment=surroundings)


def run(command: list[str], *, cwd: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
