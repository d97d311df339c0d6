"""`stretto embed`: texts in, vectors out, in order, a text that fails among them told by its name."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stretto.cli.connection import add_connection_arguments, client_of
from stretto.cli.failure import CommandFailed, used_wrongly
from stretto.cli.progress import counted
from stretto.cli.texts import Text, count_lines, lines, named_texts, refuse_terminal

if TYPE_CHECKING:
    from stretto.client import Embedding

EXAMPLES = """\
examples:
  stretto embed "A man eats food." "A person is eating." --similarity
  stretto embed --file texts.txt --out vectors.npy       one text a line
  cat texts.txt | stretto embed --json > vectors.jsonl
  stretto embed "where is it?" --prompt-name query

Without --json, --out or --similarity a vector is printed as a line "[0.1, 0.2, ...]"; a text that fails gives the
line "null" there, a message on standard error, and exit code 1.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Turn texts into vectors: those given, the lines of a file, or the lines of standard input."
    parser.epilog = EXAMPLES
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: one text a line of standard input")
    parser.add_argument("--file", type=Path, metavar="FILE", help="one text a line")
    parser.add_argument("--model", default="", metavar="NAME", help="default: the one that embeds")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--similarity", action="store_true", help="print the cosine of every pair")
    shape.add_argument("--out", type=Path, metavar="FILE.npy", help="write [n, d] float32, whole or not at all")
    shape.add_argument("--json", action="store_true", help="print one JSON object a text")
    group = parser.add_argument_group("vectors")
    group.add_argument("--pooling", choices=["cls", "mean", "max", "last_token", "weighted_mean", "mean_sqrt_len"])
    group.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="scale to length 1")
    group.add_argument("--dimensions", type=int, metavar="N", help="keep the first N")
    prompt = group.add_mutually_exclusive_group()
    prompt.add_argument("--prompt-name", metavar="NAME", help="one of the checkpoint's prompts")
    prompt.add_argument("--prompt-text", metavar="TEXT", help="put in front of every text")
    group.add_argument("--truncate", choices=["error", "end", "start", "middle"], help="of a text that is too long")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.texts and arguments.file:
        raise used_wrongly("texts and --file exclude each other.", "Give one of them.")
    with ExitStack() as opened:
        texts, total = _texts(arguments, opened)
        first = next(texts, None)
        if first is None:
            raise CommandFailed("there are no texts: the input is empty.")
        results = _results(arguments, itertools.chain([first], texts), opened)
        if arguments.similarity:
            return _print_similarity(results)
        if arguments.out is not None:
            return _write(results, total, arguments.out)
        return _print_lines(results, as_json=arguments.json)


def _texts(arguments: argparse.Namespace, opened: ExitStack) -> tuple[Iterator[Text], int | None]:
    """The texts, and how many where that can be known before they are read."""
    if arguments.texts:
        return named_texts(arguments.texts), len(arguments.texts)
    if arguments.file:
        total = count_lines(arguments.file) if arguments.out is not None else None
        return lines(opened.enter_context(arguments.file.open("rb")), str(arguments.file)), total
    refuse_terminal()
    return lines(sys.stdin.buffer, "standard input"), None


def _results(
    arguments: argparse.Namespace, texts: Iterator[Text], opened: ExitStack
) -> Iterator[tuple[Text, "Embedding"]]:
    from stretto.cli.batches import embedded

    client = opened.enter_context(client_of(arguments))

    def embed(batch: list[str]) -> list["Embedding"]:
        vectors = client.embed(
            batch,
            model=arguments.model,
            pooling=arguments.pooling,
            normalize=arguments.normalize,
            dimensions=arguments.dimensions,
            prompt_name=arguments.prompt_name,
            prompt_text=arguments.prompt_text,
            truncate=arguments.truncate,
        )
        return list(vectors)

    for text, result in embedded(texts, embed):
        if result.error is not None:
            print(f"error: {text.name}: {result.error.message}", file=sys.stderr)
        elif result.input is not None and result.input.truncated_tokens:
            print(f"note: {text.name}: {result.input.truncated_tokens} tokens were cut.", file=sys.stderr)
        yield text, result


def _print_lines(results: Iterator[tuple[Text, "Embedding"]], *, as_json: bool) -> int:
    from stretto.cli.jsonlines import print_message

    failed = 0
    for _, result in results:
        failed += result.error is not None
        if as_json:
            print_message(result.reply)
        else:
            print("null" if result.error is not None else json.dumps(_rounded(result)), flush=True)
    return 1 if failed else 0


def _rounded(result: "Embedding") -> list[float]:
    """Nine digits hold a float32 exactly."""
    return [float(f"{value:.9g}") for value in result]


def _print_similarity(results: Iterator[tuple[Text, "Embedding"]]) -> int:
    from stretto.cli.similarity import table

    pairs = list(results)
    if any(result.error is not None for _, result in pairs):  # told already, each by its name
        return 1
    print(table([text.text for text, _ in pairs], [result.tolist() for _, result in pairs]))
    return 0


def _write(results: Iterator[tuple[Text, "Embedding"]], total: int | None, path: Path) -> int:
    from stretto.cli.vectors import VectorFile

    failed, count = 0, 0
    with VectorFile(path) as file:
        for _, result in counted(results, total, unit="texts", what=path.name):
            count += 1
            failed += result.error is not None
            if not failed:
                file.add(result.vector)
        if failed:
            raise CommandFailed(
                f"{failed} of {count} texts have no vector, so {path} was not written.",
                "Mend or remove them, or use --json, which keeps the others.",
            )
        file.finish()
    print(f"{path}: {file.count} vectors of {file.dimensions} dimensions, float32", file=sys.stderr)
    return 0
