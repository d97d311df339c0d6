"""`stretto models`: what a server has loaded, with live state; or what the catalogue can fetch."""

import argparse

from stretto.cli.connection import add_connection_arguments, client_of
from stretto.cli.sizes import byte_size, count
from stretto.cli.tables import aligned

EXAMPLES = """\
examples:
  stretto models
  stretto models --json | jq -r 'select(.state == "MODEL_STATE_READY") | .id'
  stretto models --catalogue        what `stretto serve NAME` and `stretto pull NAME` can fetch
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the models of a server and how they stand."
    parser.epilog = EXAMPLES
    parser.add_argument("--catalogue", action="store_true", help="show what can be fetched by name; asks no server")
    parser.add_argument("--json", action="store_true", help="print one JSON object a model")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.catalogue:
        from stretto.cli.catalogue import print_catalogue

        return print_catalogue(as_json=arguments.json)
    return _print_loaded(arguments)


def _print_loaded(arguments: argparse.Namespace) -> int:
    from stretto.cli.jsonlines import print_message

    with client_of(arguments) as client:
        models = client.models()
    if arguments.json:
        for model in models:
            print_message(model.reply)
        return 0
    head = ("model", "state", "tasks", "parameters", "dtype", "weights", "cache", "input", "version")
    rows = [
        (
            model.id,
            model.state,
            " ".join(model.tasks),
            count(model.parameter_count),
            model.dtype if model.quantization in ("", "none") else model.quantization,
            byte_size(model.weight_bytes),
            byte_size(model.kv_cache_bytes) if model.kv_cache_bytes else "-",
            f"{model.max_input_tokens} tokens",
            model.version.removeprefix("sha256:")[:12],
        )
        for model in models
    ]
    print(aligned([head, *rows]))
    for model in models:
        if model.error is not None:
            print(f"{model.id}: {model.error.message}")
    return 0
