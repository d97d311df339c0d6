"""`stretto info`: what the server is, and what it allows."""

import argparse

from stretto.cli.connection import add_connection_arguments, client_of
from stretto.cli.sizes import byte_size

EXAMPLES = """\
examples:
  stretto info
  stretto info --json | jq -r .version
  stretto info --target gpu-box:50051 --timeout 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the server's version, device and limits."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.jsonlines import print_message

    with client_of(arguments) as client:
        info = client.server_info()
    if arguments.json:
        print_message(info.reply)
        return 0
    print(f"version        {info.version} ({', '.join(info.api_versions)})")
    print(f"up for         {_time(info.uptime_seconds)}")
    told = not info.cpu_threads or "threads" in info.device  # 0: not known yet
    threads = "" if told else f"{info.cpu_threads} threads, "
    print(f"device         {info.device}, {threads}kernels {info.kernels}")
    print(f"one request    {byte_size(info.max_request_bytes)}, {info.max_inputs_per_request:,} texts")
    print(f"one reply      {byte_size(info.max_response_bytes)}")
    print(f"may wait       {info.max_queue_size:,} requests")
    print(f"one step       {info.max_batch_tokens:,} tokens")
    return 0


def _time(seconds: float) -> str:
    """ "3 d 02:10:05"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hours:02}:{minutes:02}:{rest:02}"
