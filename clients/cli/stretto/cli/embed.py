"""`stretto embed`: texts in, vectors out, in order, a text that fails among them told by its name."""

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from stretto.cli.connection import REQUEST, add_connection_arguments, add_request_arguments, client_of
from stretto.cli.failure import CommandFailed, used_wrongly
from stretto.cli.progress import counted
from stretto.cli.readers import whole_number
from stretto.cli.report import note
from stretto.cli.sampling import keywords
from stretto.cli.texts import Text, add_text_arguments, count_lines, texts_of

if TYPE_CHECKING:
    from stretto.client import Embedding

EXAMPLES = """\
examples:
  stretto embed "A man eats food." "A person is eating." --similarity
  stretto embed --file texts.txt --out vectors.npy       one text a line
  cat texts.txt | stretto embed --json > vectors.jsonl
  jq -c .text reviews.jsonl | stretto embed --json-input --out vectors.npy
  stretto embed "where is it?" --prompt-name query

Without --json, --out or --similarity a vector is printed as a line "[0.1, 0.2, ...]"; a text that fails gives the
line "null" there, a message on standard error, and exit code 1. An --out file that is there already is replaced when
the new one is whole; nothing of it is used again. --timeout is of all texts here; by default they may take a day.
"""

POOLINGS = ["cls", "mean", "max", "last_token", "weighted_mean", "mean_sqrt_len", "none"]
ENCODINGS = ["float32", "float16", "bfloat16", "int8", "uint8", "binary"]
AGGREGATIONS = ["weighted_mean", "mean", "max", "first", "none"]
CHUNKING = ("max_chunk_tokens", "overlap_tokens", "aggregation", "max_chunks")
VECTORS = ("pooling", "normalize", "dimensions", "layer", "encoding", "prompt_name", "prompt_text", "truncate")
KEYWORDS = ("model", "timeout", *VECTORS, *CHUNKING, *REQUEST)  # a timeout that was said is of the whole stream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Turn texts into vectors: those given, the lines of a file, or the lines of standard input."
    parser.epilog = EXAMPLES
    add_text_arguments(parser)
    parser.add_argument("--model", metavar="NAME", help="default: the one that embeds")
    parser.add_argument("--json", action="store_true", help="print one JSON object a text")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--similarity", action="store_true", help="print the cosine of every pair")
    shape.add_argument("--out", type=Path, metavar="FILE.npy", help="write [n, d] float32, whole or not at all")
    group = parser.add_argument_group("vectors", "What is not said here is as the checkpoint says.")
    group.add_argument("--pooling", choices=POOLINGS, help="none, with --json: a vector for each token")
    group.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="scale to length 1")
    group.add_argument("--dimensions", type=whole_number, metavar="N", help="keep the first N")
    group.add_argument("--layer", type=whole_number, metavar="N", help="-1 is the last, 0 the embeddings")
    group.add_argument("--encoding", choices=ENCODINGS, help="of the numbers, with --json; default float32")
    prompt = group.add_mutually_exclusive_group()
    prompt.add_argument("--prompt-name", metavar="NAME", help="one of the checkpoint's prompts")
    prompt.add_argument("--prompt-text", metavar="TEXT", help="put in front of every text")
    _add_overflow_arguments(parser)
    add_request_arguments(parser)
    add_connection_arguments(parser)


def _add_overflow_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts that are too long")
    group.add_argument("--truncate", choices=["error", "end", "start", "middle", "chunk"], help="chunk: in windows")
    group.add_argument("--max-chunk-tokens", type=whole_number, metavar="N", help="of a window; default the model's")
    group.add_argument("--overlap-tokens", type=whole_number, metavar="N", help="that a window shares with the next")
    group.add_argument("--max-chunks", type=whole_number, metavar="N", help="a text of more windows fails")
    group.add_argument("--aggregation", choices=AGGREGATIONS, help="none, with --json: a vector for each window")


def run(arguments: argparse.Namespace) -> int:
    _refuse_unseen(arguments)
    with ExitStack() as opened:
        results = _results(arguments, texts_of(arguments, opened), opened)
        if arguments.similarity:
            return _print_similarity(results, as_json=arguments.json)
        if arguments.out is not None:
            return _write(results, _total(arguments), arguments.out)
        return _print_lines(results, as_json=arguments.json)


def _refuse_unseen(arguments: argparse.Namespace) -> None:
    """What cannot be shown in the shape that was asked for."""
    if arguments.out is not None and arguments.json:
        raise used_wrongly("--out writes vectors, so there is nothing for --json to print.", "Give one of them.")
    several = "none" in (arguments.pooling, arguments.aggregation)
    encoded = arguments.encoding not in (None, "float32")
    if (several or encoded) and (arguments.similarity or not arguments.json):
        what = "--encoding" if encoded else "several vectors for one text"
        raise used_wrongly(f"{what} can only be printed with --json.", "Add --json, without --similarity or --out.")


def _total(arguments: argparse.Namespace) -> int | None:
    """How many texts there are, where that can be known before they are read."""
    if arguments.texts:
        return len(arguments.texts)
    return count_lines(arguments.file) if arguments.file else None


def _results(
    arguments: argparse.Namespace, texts: Iterator[Text], opened: ExitStack
) -> Iterator[tuple[Text, "Embedding"]]:
    client = opened.enter_context(client_of(arguments))
    under_way: deque[Text] = deque()

    def sent() -> Iterator[str]:
        for text in texts:
            under_way.append(text)
            yield text.text

    for result in client.embed_stream(sent(), **keywords(arguments, KEYWORDS)):
        text = under_way.popleft()
        if result.error is not None:
            print(f"error: {text.name}: {result.error.message}", file=sys.stderr)
        elif result.input is not None and result.input.truncated_tokens:
            note(f"{text.name}: {result.input.truncated_tokens} tokens were cut.")
        yield text, result


def _print_lines(results: Iterator[tuple[Text, "Embedding"]], *, as_json: bool) -> int:
    from stretto.cli.jsonlines import print_message

    failed = False
    for _, result in results:
        failed |= result.error is not None
        if as_json:
            print_message(result.reply)
        else:
            print("null" if result.error is not None else json.dumps(_rounded(result)), flush=True)
    return 1 if failed else 0


def _rounded(result: "Embedding") -> list[float]:
    """Nine digits hold a float32 exactly."""
    return [float(f"{value:.9g}") for value in result]


def _print_similarity(results: Iterator[tuple[Text, "Embedding"]], *, as_json: bool) -> int:
    from stretto.cli.similarity import cosines, print_objects, table

    pairs = list(results)
    if any(result.error is not None for _, result in pairs):  # told already, each by its name
        return 1
    texts, matrix = [text.text for text, _ in pairs], cosines([result.vector for _, result in pairs])
    if as_json:
        print_objects(texts, matrix)
    else:
        print(table(texts, matrix))
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
        replaced = file.finish()
    kind = f"{file.count} vectors of {file.dimensions} dimensions, float32"
    print(f"{path}: {kind}{', in the place of an older file' if replaced else ''}", file=sys.stderr)
    return 0
