"""The console script `stretto`: finds the command, runs it, and turns whatever happens into words and an exit code.

Nothing but the standard library is imported here, so `--help` and `--version` always work; a command's module is
imported when that command is asked for, and a library that it lacks is named with the extra that brings it.
"""

import argparse
import difflib
import importlib
import importlib.metadata
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from stretto.cli.failure import USED_WRONGLY, CommandFailed, used_wrongly
from stretto.cli.report import show_error

INTERRUPTED = 130
EXAMPLES = """\
examples:
  stretto serve                                    start a server with two small models
  stretto chat                                     talk to it
  stretto generate "The capital of France is" --max-tokens 8
  stretto embed "A man eats food." "A person is eating." --similarity
  stretto models --json | jq .id                   what is loaded

Commands talk to 127.0.0.1:50051, to STRETTO_TARGET, or to --target HOST:PORT.
`stretto COMMAND --help` has more. Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of the script: its line in --help, what it takes, and the extra that holds what it imports."""

    summary: str
    takes: str
    extra: str


ASKING = {
    "chat": Command(summary="talk to a model", takes="", extra="cli"),
    "generate": Command(summary="continue a text", takes="[TEXT]", extra="cli"),
    "score": Command(summary="how likely texts are after others", takes="[CONTEXT CONTINUATION ...]", extra="cli"),
    "embed": Command(summary="turn texts into vectors", takes="[TEXT ...]", extra="cli"),
    "tokenize": Command(summary="turn texts into tokens", takes="[TEXT ...]", extra="cli"),
    "detokenize": Command(summary="turn token ids into text", takes="[ID ...]", extra="cli"),
    "models": Command(summary="show what is loaded, or can be", takes="", extra="cli"),
    "info": Command(summary="show what the server is and what it allows", takes="", extra="cli"),
}
HERE = {
    "serve": Command(summary="start a server", takes="[[NAME=]SOURCE[@REVISION] ...]", extra="serve"),
    "pull": Command(summary="fetch models before they are needed", takes="NAME ...", extra="serve"),
    "inspect": Command(summary="show what a checkpoint is, offline", takes="MODEL", extra="serve"),
    "token": Command(summary="make a token for who may call a server", takes="NAME", extra="serve"),
}
COMMANDS = ASKING | HERE


class Parser(argparse.ArgumentParser):
    """argparse, with its mistakes told in this program's way."""

    def error(self, message: str) -> NoReturn:
        raise used_wrongly(f"{message}.", f"{self.prog} --help has the whole list.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        if sys.stdout is None:
            raise used_wrongly("standard output is closed.", "Send it somewhere:  > /dev/null")
        _speak_utf8()
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except SystemExit as end:  # argparse's, after --help and --version
        return end.code if isinstance(end.code, int) else USED_WRONGLY
    except Exception as error:
        if debug:
            traceback.print_exc()
        show_error(error, sys.stderr)
        if isinstance(error, OSError):
            _forget_stdout()
        return error.exit_code if isinstance(error, CommandFailed) else 1
    return code


def _run(words: list[str]) -> int:
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        parser = parser_of(None)
        parser.parse_args(words)  # answers --help and --version, refuses the rest
        parser.print_help(sys.stderr)
        return USED_WRONGLY
    if name not in COMMANDS:
        raise used_wrongly(f"no command {name!r}.", _meant(name))
    if "--debug" not in words:
        # A client tells of a broken connection itself, once; a server has no line for a caller that speaks no TLS.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE" if COMMANDS[name].extra == "cli" else "ERROR")
    try:
        options, unknown = parser_of(name).parse_known_args(words)
        if unknown:
            raise _unknown(name, unknown)
        code: int = _imported(name).run(options)
        return code
    except ModuleNotFoundError as missing:
        if (missing.name or "stretto").startswith("stretto"):  # not a library: this program is broken
            raise
        raise _lacking(name, missing) from missing


def parser_of(chosen: str | None) -> Parser:
    """The whole program's parser; only the chosen command's module is imported and has arguments."""
    parser = Parser(
        prog="stretto",
        usage="stretto [--version] [--debug] COMMAND ...",
        description="Generate text and embed it, from checkpoints on your own machine.",
        epilog=f"ask a server:\n{_listed(ASKING)}\n\non this machine:\n{_listed(HERE)}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stretto {importlib.metadata.version('stretto')}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(dest="command", prog="stretto", metavar="COMMAND", help=argparse.SUPPRESS)
    for name, command in COMMANDS.items():
        below = commands.add_parser(
            name,
            usage=f"stretto {name} [OPTION ...] {command.takes}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # an option that comes later must not change what an old script says
        )
        below.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors")
        if name == chosen:
            _imported(name).add_arguments(below)
    return parser


def _listed(commands: Mapping[str, Command]) -> str:
    return "\n".join(f"  {name:<11} {command.summary}" for name, command in commands.items())


def _imported(name: str) -> ModuleType:
    """The command's module: it has `add_arguments(parser)` and `run(arguments) -> int`."""
    return importlib.import_module(f"stretto.cli.{name}")


def _lacking(name: str, missing: ModuleNotFoundError) -> CommandFailed:
    extra = COMMANDS[name].extra
    return used_wrongly(
        f"stretto {name} needs {missing.name}, which is not installed.",
        f"Install it:  pip install 'stretto[{extra}]'",
    )


def _unknown(name: str, words: list[str]) -> CommandFailed:
    options, word = re.findall(r"--([a-z-]+)", _options_of(name)), words[0].removeprefix("--")
    begun = [option for option in options if word and option.startswith(word)]
    near = begun or difflib.get_close_matches(word, options, n=1)
    guess = f"Did you mean --{near[0]}?  " if near and words[0].startswith("--") and word not in options else ""
    return used_wrongly(
        f"unrecognized arguments: {' '.join(words)}.", f"{guess}stretto {name} --help has the whole list."
    )


def _options_of(name: str) -> str:
    parser = Parser(prog=f"stretto {name}")
    _imported(name).add_arguments(parser)
    return parser.format_usage()


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    guess = f"Did you mean {near[0]}?  " if near else ""
    return f"{guess}Commands: {', '.join(COMMANDS)}."


def _speak_utf8() -> None:
    """A pipe's encoding is whatever the locale says; results are UTF-8 everywhere."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(encoding="utf-8")


def _forget_stdout() -> None:
    """Nobody reads any more: what Python flushes at exit goes nowhere instead of failing again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
