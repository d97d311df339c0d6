"""The options of every command that talks to a server, and the client that they make."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stretto.cli.failure import used_wrongly
from stretto.cli.readers import number, whole_number
from stretto.cli.texts import decoded

if TYPE_CHECKING:
    from stretto.client import Client

# An answer may take long on a small machine; a person who has waited enough presses Ctrl-C.
DEFAULT_TIMEOUT = 600.0
REQUEST = ("priority", "queue_timeout")


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--target", metavar="HOST:PORT", help="default: STRETTO_TARGET, else 127.0.0.1:50051")
    group.add_argument("--timeout", type=number, metavar="SECONDS", help=f"of one call; default {DEFAULT_TIMEOUT:.0f}")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="holds the bearer token to send")
    group.add_argument("--tls", action="store_true", help="encrypt; trust the system's certificate authorities")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="encrypt; trust the authorities in this PEM file")


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("request")
    group.add_argument("--priority", type=whole_number, metavar="N", help="larger runs earlier; default 0")
    group.add_argument("--queue-timeout", type=number, metavar="SECONDS", help="give up when nothing began by then")


def client_of(arguments: argparse.Namespace) -> "Client":
    from stretto.client import Client, InvalidRequest

    # What it logs, the commands say in their own words.
    logging.getLogger("stretto.client").addHandler(logging.NullHandler())
    try:
        return Client(
            arguments.target,
            timeout=DEFAULT_TIMEOUT if arguments.timeout is None else arguments.timeout,
            token=_token(arguments.token_file),
            tls=arguments.tls,
            root_certificates=arguments.tls_ca,
        )
    except InvalidRequest as error:
        raise used_wrongly(error.message) from error


def _token(path: Path | None) -> str | None:
    return None if path is None else decoded(path.read_bytes(), str(path)).strip()
