"""`stretto score`: how likely texts are after a context."""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stretto.cli.connection import REQUEST, add_connection_arguments, add_request_arguments, client_of
from stretto.cli.failure import CommandFailed, used_wrongly
from stretto.cli.report import note
from stretto.cli.sampling import keywords
from stretto.cli.tables import aligned
from stretto.cli.texts import Text, given_lines, parsed

if TYPE_CHECKING:
    from stretto.client import Scores

EXAMPLES = """\
examples:
  stretto score "The capital of France is" " Paris." " Lyon."
  stretto score "" "How likely is this text by itself?"
  stretto score "2 + 2 =" " 4" " 5" --token-logprobs --json
  stretto score --file items.jsonl --json | jq -c .item.continuations

A line of --file, or of standard input, is an item as JSON: {"context": "2 + 2 =", "continuations": [" 4", " 5"]}.
A continuation is read as it is written: begin it with a space where one belongs.
"""
KEYWORDS = ("model", "token_logprobs", "truncate", *REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A context, what may follow it, and what to call them in a message."""

    context: str
    continuations: list[str]
    name: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show how likely each continuation is after the context; nothing is drawn."
    parser.epilog = EXAMPLES
    parser.add_argument("context", nargs="?", metavar="CONTEXT", help="default: items, a line each, of standard input")
    parser.add_argument("continuations", nargs="*", metavar="CONTINUATION", help="what may follow")
    parser.add_argument("--file", type=Path, metavar="FILE", help="an item a line")
    parser.add_argument("--model", metavar="NAME", help="default: the one that scores")
    parser.add_argument("--json", action="store_true", help="print one JSON object an item")
    parser.add_argument("--token-logprobs", action="store_true", default=None, help="with --json: of each token")
    parser.add_argument("--truncate", choices=["error", "start"], help="of a context that is too long")
    add_request_arguments(parser)
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.jsonlines import print_message, print_refusal
    from stretto.cli.ordered import answered
    from stretto.client import InvalidRequest

    if arguments.token_logprobs and not arguments.json:
        raise used_wrongly("nobody sees token_logprobs without --json.", "Add --json.")
    said, failed = keywords(arguments, KEYWORDS), False
    with ExitStack() as opened:
        items = _items(arguments, opened)
        client = opened.enter_context(client_of(arguments))
        for item, scores in answered(items, lambda item: client.score(item.context, item.continuations, **said)):
            if isinstance(scores, InvalidRequest):
                failed = True
                print_refusal(scores, item.name, as_json=arguments.json)
                continue
            if scores.input is not None and scores.input.truncated_tokens:
                note(f"{item.name}: {scores.input.truncated_tokens} tokens of the context were cut.")
            if arguments.json:
                print_message(scores.reply)
            else:
                print(_table(item, scores, headed=arguments.context is None), flush=True)
    return 1 if failed else 0


def _items(arguments: argparse.Namespace, opened: ExitStack) -> Iterator[Item]:
    if arguments.context is None:
        return map(_item, given_lines(arguments.file, opened))
    if arguments.file is not None:
        raise used_wrongly("a context and --file exclude each other.", "Give one of them.")
    if not arguments.continuations:
        raise used_wrongly("there is no continuation to score.", 'As in: stretto score "2 + 2 =" " 4" " 5"')
    return iter([Item(context=arguments.context, continuations=arguments.continuations, name="the item")])


def _item(line: Text) -> Item:
    value = parsed(line)
    if isinstance(value, dict) and set(value) == {"context", "continuations"}:
        context, continuations = value["context"], value["continuations"]
        if isinstance(context, str) and isinstance(continuations, list) and all(map(_is_text, continuations)):
            return Item(context=context, continuations=continuations, name=line.name)
    raise CommandFailed(
        f"{line.name} is not an item.", 'It should be like {"context": "2 + 2 =", "continuations": [" 4", " 5"]}.'
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _table(item: Item, scores: "Scores", *, headed: bool) -> str:
    """A row a continuation; of an item among others, its context above."""
    rows = [("logprob", "per token", "perplexity", "tokens", "greedy", "continuation")]
    for continuation, score in zip(item.continuations, scores, strict=True):
        figures = (f"{score.logprob:.4f}", f"{score.mean_logprob:.4f}", f"{score.perplexity:,.2f}")
        rows.append(
            (
                *figures,
                str(score.token_count),
                "yes" if score.is_greedy else "no",
                json.dumps(continuation, ensure_ascii=False),
            )
        )
    return (f"{json.dumps(item.context, ensure_ascii=False)}\n" if headed else "") + aligned(rows)
