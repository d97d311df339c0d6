"""`stretto token`: a fresh bearer token, shown once, and the line by which a server knows it."""

import argparse
import sys

from stretto.cli.failure import used_wrongly

EXAMPLES = """\
examples:
  stretto token alice                      the token, and below it the line for the server's file
  stretto token alice > alice.token        the token into a file, the line on the screen
  stretto token alice --json | jq -r .line >> tokens.txt
  stretto serve --token-file tokens.txt    every call needs one of the file's tokens from now on

The token is printed once and kept nowhere; the line holds its hash only. Callers send it as the metadata
authorization: Bearer TOKEN. To take a token back, delete its line and start the server again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make a bearer token. The token goes to standard output, the line to standard error."
    parser.epilog = EXAMPLES
    parser.add_argument("name", metavar="NAME", help="whom it is for; the server's log calls them so")
    parser.add_argument("--json", action="store_true", help="print one JSON object: name, token, line")


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.jsonlines import print_object
    from stretto.server.auth import new_token

    try:
        token, holder = new_token(arguments.name)
    except ValueError as error:
        raise used_wrongly(f"a token's name must be {error}; got {arguments.name!r}.") from error
    if arguments.json:
        print_object({"name": holder.name, "token": token, "line": str(holder)})
        return 0
    print(token, flush=True)
    print(f"The line for the server's --token-file:\n{holder}", file=sys.stderr)
    return 0
