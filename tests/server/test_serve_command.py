"""Proves what `stretto serve` says: its help, its mistakes, its settings, and its words for the life of a server."""

import argparse
import io
import json
import subprocess
import sys
import tomllib

import pytest

from stretto.cli import serve
from stretto.cli.failure import CommandFailed
from stretto.cli.startup import Lines, Screen, program
from stretto.server.announcements import Listening, ModelReady, Serving, Stopped, Stopping
from stretto.server.logs import open_log
from stretto.server.quantities import Address
from stretto.server.settings import SETTINGS


def parsed(*words):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)


def test_importing_the_command_loads_nothing_heavy():
    code = (
        "import sys, argparse; from stretto.cli import serve; serve.add_arguments(argparse.ArgumentParser());"
        "heavy = {'torch', 'grpc', 'google.protobuf', 'rich', 'numpy', 'structlog'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_the_server_loads_no_torch():
    code = "import sys; import stretto.server.app, stretto.cli.startup; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_every_setting_has_a_flag_with_help():
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings if action.help}
    assert {setting.flag for setting in SETTINGS if setting.name != "models"} <= flags


def test_print_config_is_toml_that_says_where_values_come_from(capsys, tmp_path):
    file = tmp_path / "stretto.toml"
    file.write_text("threads = 2\n")
    assert serve.run(parsed("a", "b=c", "--print-config", "--config", str(file), "--cache-memory", "1kB")) == 0
    out = capsys.readouterr().out
    read = tomllib.loads(out)
    assert (read["models"], read["threads"], read["cache_memory"]) == (["a", "b=c"], 2, 1000)
    assert f"threads = 2  # {file}:1" in out
    assert "max_inputs = 2048  # default" in out


def test_no_source_means_both_default_models(capsys):
    serve.run(parsed("--print-config"))
    assert tomllib.loads(capsys.readouterr().out)["models"] == ["smollm2-135m-instruct", "all-minilm-l6-v2"]


def test_all_mistakes_come_at_once_as_a_wrong_use():
    with pytest.raises(CommandFailed) as caught:
        serve.run(parsed("--threads", "x", "--listen", "0.0.0.0:1", "--quantize", "int8"))
    assert caught.value.exit_code == 2
    assert "threads must be" in caught.value.message
    assert "0.0.0.0 can be reached" in caught.value.message
    assert "quantize must be none" in caught.value.message


def test_two_models_of_one_name_are_refused(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "model").mkdir(parents=True)
    with pytest.raises(CommandFailed, match="two models would be called model") as caught:
        serve.run(parsed(str(tmp_path / "one" / "model"), str(tmp_path / "two" / "model")))
    assert caught.value.exit_code == 2


@pytest.fixture
def life(running):
    """Everything that a server says, from its start to its end."""
    address = Address("127.0.0.1", 50051)
    return [
        Listening(grpc=address, metrics=Address("127.0.0.1", 9464), encrypted=False, asks_for_token=False),
        *(ModelReady(card=card) for card in running.engine.cards()),
        Serving(),
        Stopping(num_running=2, grace_seconds=30),
        Stopped(num_finished=1, num_cut=1),
    ]


async def test_without_a_terminal_every_fact_is_one_log_line(life):
    stream = io.StringIO()
    lines = Lines(open_log(format="json", level="info", stream=stream, colours=False))
    for what in life:
        lines.announce(what)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in told] == ["listening", *["model ready"] * 2, "serving", "stopping", "stopped"]
    assert (told[1]["model"], told[1]["tasks"], told[1]["cache_tokens"]) == ("writer", "generate score", 160)
    assert (told[-1]["finished"], told[-1]["cut"]) == (1, 1)


async def test_the_screen_shows_models_addresses_and_what_to_try(life, capsys):
    with Screen(["writer", "reader"], grace_seconds=30, coloured=False) as screen:
        for what in life:
            screen.announce(what)
    told = capsys.readouterr().err
    assert "\x1b[3" not in told
    for line in (
        "  writer   generate score   float32      4.0 kB   ready in 0.2 s",
        "  gRPC      127.0.0.1:50051      (plain text, this machine only)",
        "  metrics   http://127.0.0.1:9464/metrics      health  /healthz /readyz",
        f"  Try       {program()} chat",
        f"            {program()} embed",
        "  Stop with Ctrl-C: running requests get 30 s to finish.",
        "Stopping: 2 requests may take 30 s more to finish; Ctrl-C again cuts them.",
        "Stopped: 1 request finished, 1 cut.",
    ):
        assert line in told
