"""`stretto detokenize`: the text of token ids."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from stretto.cli.connection import add_connection_arguments, client_of
from stretto.cli.failure import CommandFailed
from stretto.cli.readers import whole_number
from stretto.cli.sampling import keywords
from stretto.cli.texts import Text, given_lines

EXAMPLES = """\
examples:
  stretto detokenize 504 3575 282 4649 314 --model smollm2-135m-instruct
  stretto detokenize --file ids.txt --json --model smollm2-135m-instruct | jq -r .text

A line of --file, or of standard input, holds the ids of one text, separated by spaces, as `stretto tokenize --ids`
prints them. --model may be left out where only one is loaded.
"""
KEYWORDS = ("model", "skip_special_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the text that token ids stand for."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "ids", nargs="*", type=whole_number, metavar="ID", help="default: those of each line of standard input"
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="the ids of a text a line")
    parser.add_argument("--model", metavar="NAME", help="whose tokens; default: the only one that is loaded")
    parser.add_argument("--json", action="store_true", help="print one JSON object a text")
    parser.add_argument(
        "--keep-special-tokens", dest="skip_special_tokens", action="store_false", default=None, help="in the text"
    )
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.jsonlines import print_object, print_refusal
    from stretto.cli.ordered import answered
    from stretto.client import InvalidRequest

    said, failed = keywords(arguments, KEYWORDS), False
    with ExitStack() as opened:
        client = opened.enter_context(client_of(arguments))
        lists = _lists(arguments, opened)
        for (name, _), texts in answered(lists, lambda named: client.detokenize([named[1]], **said)):
            if isinstance(texts, InvalidRequest):
                failed = True
                print_refusal(texts, name, as_json=arguments.json)
            elif arguments.json:
                print_object({"text": texts[0]})
            else:
                print(texts[0], flush=True)
    return 1 if failed else 0


def _lists(arguments: argparse.Namespace, opened: ExitStack) -> Iterator[tuple[str, list[int]]]:
    """The ids of each text, with what to call them in a message."""
    if arguments.ids:
        return iter([("the list", arguments.ids)])
    return map(_ids, given_lines(arguments.file, opened))


def _ids(line: Text) -> tuple[str, list[int]]:
    try:
        return line.name, [int(word) for word in line.text.split()]
    except ValueError:
        raise CommandFailed(f"{line.name} must be token ids, separated by spaces; got {line.text[:80]!r}.") from None
