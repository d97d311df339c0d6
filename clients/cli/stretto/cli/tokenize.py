"""`stretto tokenize`: the tokens of texts, or of a chat, as a model reads them."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stretto.cli.connection import add_connection_arguments, client_of
from stretto.cli.failure import CommandFailed, used_wrongly
from stretto.cli.sampling import keywords
from stretto.cli.tables import aligned
from stretto.cli.texts import Text, add_text_arguments, decoded, parsed, texts_of

if TYPE_CHECKING:
    from stretto.client import Client, InvalidRequest, Message, Tokenizations

EXAMPLES = """\
examples:
  stretto tokenize "The capital of France is Paris." --model smollm2-135m-instruct
  stretto tokenize --file texts.txt --count --model all-minilm-l6-v2     a number a line
  stretto tokenize --chat talk.json --count --model smollm2-135m-instruct
  cat texts.txt | stretto tokenize --json --model all-minilm-l6-v2 | jq -c .token_ids

--model may be left out where only one is loaded. /save of stretto chat writes files for --chat.
"""
KEYWORDS = ("model", "add_special_tokens", "parse_special_tokens", "offsets")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the ids and the pieces of texts; those are bytes, so a piece may be part of a character."
    parser.epilog = EXAMPLES
    add_text_arguments(parser)
    parser.add_argument("--chat", type=Path, metavar="FILE.json", help="a list of messages, as the model reads it")
    parser.add_argument("--model", metavar="NAME", help="whose tokens; default: the only one that is loaded")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--count", action="store_true", help="print only how many, a number a text")
    shape.add_argument("--ids", action="store_true", help="print only the ids, a line a text")
    shape.add_argument("--json", action="store_true", help="print one JSON object a text; its pieces are base64")
    parser.add_argument("--offsets", action="store_true", default=None, help="with --json: where each token stands")
    parser.add_argument(
        "--add-special-tokens", action=argparse.BooleanOptionalAction, help="default: as the tokenizer does"
    )
    parser.add_argument(
        "--parse-special-tokens",
        action=argparse.BooleanOptionalAction,
        help="whether control tokens written in a text are control tokens; default yes, in a chat never",
    )
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.jsonlines import print_refusal

    if arguments.offsets and not arguments.json:
        raise used_wrongly("nobody sees offsets without --json.", "Add --json.")
    failed, several = False, False
    with ExitStack() as opened:
        client = opened.enter_context(client_of(arguments))
        for name, answer in _answers(arguments, client, opened):
            if not isinstance(answer, Exception):
                _print(arguments, answer, several=several)
            else:
                failed = True
                print_refusal(answer, name, as_json=arguments.json)
            several = True
    return 1 if failed else 0


def _answers(
    arguments: argparse.Namespace, client: "Client", opened: ExitStack
) -> Iterator[tuple[str, "Tokenizations | InvalidRequest"]]:
    """Each text's tokens under its name; a text that is refused does not end the others."""
    from stretto.cli.ordered import answered

    said = {**keywords(arguments, KEYWORDS), "pieces": not (arguments.ids or arguments.count)}
    if arguments.count:
        said["count_only"] = True
    if arguments.chat is not None:
        yield str(arguments.chat), client.tokenize(_messages(arguments), **said)
        return
    for text, answer in answered(texts_of(arguments, opened), lambda text: client.tokenize([text.text], **said)):
        yield text.name, answer


def _messages(arguments: argparse.Namespace) -> "list[Message]":
    if arguments.texts or arguments.file or arguments.json_input:
        raise used_wrongly("texts and --chat exclude each other.", "Give one of them.")
    name = str(arguments.chat)
    value = parsed(Text(text=decoded(arguments.chat.read_bytes(), name), name=name))
    if not isinstance(value, list):
        raise CommandFailed(f"{name} is not a list of messages.", 'As in: [{"role": "user", "content": "Hello"}]')
    return value


def _print(arguments: argparse.Namespace, answer: "Tokenizations", *, several: bool) -> None:
    from stretto.cli.jsonlines import print_message

    (tokens,) = answer
    if arguments.json:
        print_message(answer.reply.results[0])
    elif arguments.count:
        print(tokens.token_count, flush=True)
    elif arguments.ids:
        print(*tokens.token_ids, flush=True)
    else:
        rows = [(str(token), shown(piece)) for token, piece in zip(tokens.token_ids, tokens.pieces, strict=True)]
        print(("\n" if several else "") + aligned(rows), flush=True)


def shown(piece: bytes) -> str:
    """In quotes, so that spaces are seen; bytes that are no character by their numbers."""
    try:
        return repr(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(piece).removeprefix("b")
