"""`stretto serve`: settings, models by name, and a server that says what it does until Ctrl-C."""

import argparse
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stretto.cli.failure import used_wrongly
from stretto.cli.jsonlines import print_object
from stretto.cli.report import colored

if TYPE_CHECKING:  # processes forked by the server import this module again: it stays light
    from stretto.engine.config import LoadSpec
    from stretto.server.credentials import Credentials
    from stretto.server.settings import Settings

EXAMPLES = """\
examples:
  stretto serve                                        both default models
  stretto serve smollm2-135m-instruct                  one model of the catalogue
  stretto serve ./runs/tiny chat=./model.gguf          a directory, and a GGUF file under the name `chat`
  stretto serve all-minilm-l6-v2 --listen 127.0.0.1:0  any free port
  stretto serve --config stretto.toml --print-config   every setting, and where its value comes from
  stretto serve --listen 0.0.0.0:50051 --tls-cert cert.pem --tls-key key.pem --token-file tokens.txt

Each option is also a key of the --config file (step_budget_ms = 20) and a variable (STRETTO_STEP_BUDGET_MS=20).
A flag wins over a variable, a variable over the file. SIGTERM and Ctrl-C let running requests finish; a second
one ends them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; values stay text, so that the settings can report all mistakes at once."""
    from stretto.server.quantities import read_switch
    from stretto.server.settings import SETTINGS

    parser.epilog = EXAMPLES
    parser.add_argument(
        "models",
        nargs="*",
        metavar="[NAME=]SOURCE[@REVISION]",
        help="a directory, a .gguf file, a name of the catalogue or a hub id; none: both default models",
    )
    for setting in SETTINGS:
        text = f"{setting.help} (default: {setting.default or 'none'})"
        if setting.read is read_switch:
            parser.add_argument(setting.flag, action="store_const", const="true", help=setting.help)
        elif setting.name != "models":
            parser.add_argument(setting.flag, metavar=setting.name.rpartition("_")[2].upper(), help=text)
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    parser.add_argument("--print-config", action="store_true", help="print every setting with its origin, and stop")
    parser.add_argument("--json", action="store_true", help="with --print-config: one JSON object a setting")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; the exit code: 0, or 128 and the signal's number where it cut the server short."""
    from stretto.server.config import ConfigError, described, load
    from stretto.server.credentials import read_credentials

    flags = {name: value for name, value in vars(arguments).items() if value not in (None, [])}
    try:
        settings = load(flags, os.environ, arguments.config)
    except ConfigError as error:
        raise used_wrongly("\n".join(error.problems)) from error
    if arguments.print_config:
        for name, value, origin in described(settings):
            if arguments.json:
                print_object({"name": name, "value": tomllib.loads(f"it = {value}")["it"], "origin": origin})
            else:
                print(f"{name} = {value}  # {origin}")
        return 0
    if arguments.json:
        raise used_wrongly("serve prints nothing that --json could shape.", "For its log:  --log-format json")
    try:
        credentials = read_credentials(settings)
    except ConfigError as error:
        raise used_wrongly("\n".join(error.problems)) from error
    return _serve(settings, credentials)


def _serve(settings: "Settings", credentials: "Credentials") -> int:
    import asyncio
    import logging

    from stretto.cli.startup import Lines, Screen
    from stretto.server.app import run as run_server
    from stretto.server.logs import Forwarding, open_log

    coloured = colored(sys.stderr) and settings.log_format == "human"
    logger = open_log(format=settings.log_format, level=settings.log_level, stream=sys.stderr, colours=coloured)
    logging.getLogger().addHandler(Forwarding(logger))
    loads = _loads(settings)
    if not (sys.stderr.isatty() and settings.log_format == "human"):
        return asyncio.run(
            run_server(settings, loads, credentials=credentials, logger=logger, announce=Lines(logger).announce)
        )
    names = [load.name for load in loads]
    with Screen(names, grace_seconds=settings.grace_seconds, coloured=coloured) as screen:
        return asyncio.run(
            run_server(settings, loads, credentials=credentials, logger=logger, announce=screen.announce)
        )


def _loads(settings: "Settings") -> list["LoadSpec"]:
    """What to load under which name; fetches what is not here yet."""
    from stretto.cli.downloads import watched
    from stretto.engine.checkpoint.sources import cache_folder, model_name, resolve, split_name
    from stretto.engine.config import LoadSpec

    pairs = [split_name(written) for written in settings.models]
    named = [(name or model_name(source), source) for name, source in pairs]
    _refuse_duplicates(named)
    cache = cache_folder(os.environ)
    with watched() as progress:
        return [
            LoadSpec(
                name=name,
                path=resolve(source, cache=cache, progress=progress),
                source=source,
                dtype=settings.dtype,
                device=settings.device,
                cache_bytes=settings.cache_memory,
            )
            for name, source in named
        ]


def _refuse_duplicates(named: Sequence[tuple[str, str]]) -> None:
    sources: dict[str, str] = {}
    for name, source in named:
        if name in sources:
            raise used_wrongly(
                f"two models would be called {name}: {sources[name]} and {source}.",
                f"Give one another name:  other={source}",
            )
        sources[name] = source
