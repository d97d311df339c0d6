"""`stretto generate`: continue one text."""

import argparse
import sys

from stretto.cli.connection import add_connection_arguments, client_of
from stretto.cli.failure import used_wrongly
from stretto.cli.sampling import add_sampling_arguments
from stretto.cli.texts import whole_input

EXAMPLES = """\
examples:
  stretto generate "The capital of France is" --max-tokens 8
  stretto generate "Once upon a time" --temperature 0.8 --seed 7 --candidates 3
  cat story.txt | stretto generate --max-tokens 100 > more.txt
  stretto generate "2 + 2 =" --json | jq .usage
"""

DEFAULTS = {"max_tokens": 256, "temperature": 0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Continue a text; the answer goes to standard output as it is made."
    parser.epilog = EXAMPLES
    parser.add_argument("text", nargs="?", metavar="TEXT", help="default, and for '-': standard input")
    parser.add_argument("--model", default="", metavar="NAME", help="default: the one that generates")
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    parser.add_argument("--json", action="store_true", help="print the whole reply as one JSON object")
    add_sampling_arguments(parser, DEFAULTS)
    parser.add_argument("--candidates", type=int, metavar="N", help="answers to the same text; printed when whole")
    parser.add_argument("--ignore-eos", action="store_true", help="go on after the model's end token")
    parser.add_argument("--include-stop", action="store_true", help="keep the stop text in the answer")
    parser.add_argument("--logprobs", action="store_true", help="with --json: log probabilities of the tokens")
    parser.add_argument("--top-logprobs", type=int, metavar="N", help="with --json: the likeliest at each position")
    parser.add_argument("--echo", action="store_true", help="print the text in front of the answer")
    parser.add_argument("--truncate", choices=["error", "end", "start", "middle"], help="of a text that is too long")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if (arguments.logprobs or arguments.top_logprobs is not None) and not arguments.json:
        raise used_wrongly("--logprobs and --top-logprobs print nothing without --json.", "Add --json.")
    prompt = whole_input(arguments.text)
    whole = arguments.json or arguments.no_stream or (arguments.candidates or 1) > 1
    return _print_whole(arguments, prompt) if whole else _print_stream(arguments, prompt)


def _print_whole(arguments: argparse.Namespace, prompt: str) -> int:
    from stretto.cli.jsonlines import print_message

    with client_of(arguments) as client:
        answer = client.generate(
            prompt,
            model=arguments.model,
            max_tokens=arguments.max_tokens,
            min_tokens=arguments.min_tokens,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            seed=arguments.seed,
            candidates=arguments.candidates,
            stop=arguments.stop,
            ignore_eos=arguments.ignore_eos,
            include_stop=arguments.include_stop,
            logprobs=arguments.logprobs,
            top_logprobs=arguments.top_logprobs,
            echo=arguments.echo,
            truncate=arguments.truncate,
        )
    if arguments.json:
        print_message(answer.reply)
        return 0
    _tell_cut(answer.input.truncated_tokens)
    for candidate in answer.candidates:
        if len(answer.candidates) > 1:
            print(f"[{candidate.index + 1}]")
        print(candidate.text)
    return 0


def _print_stream(arguments: argparse.Namespace, prompt: str) -> int:
    text, last = "", None
    with (
        client_of(arguments) as client,
        client.stream(
            prompt,
            model=arguments.model,
            max_tokens=arguments.max_tokens,
            min_tokens=arguments.min_tokens,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            seed=arguments.seed,
            stop=arguments.stop,
            ignore_eos=arguments.ignore_eos,
            include_stop=arguments.include_stop,
            echo=arguments.echo,
            truncate=arguments.truncate,
        ) as stream,
    ):
        for piece in stream:
            text, last = piece.text or text, piece.finish_reason or last
            print(piece.text, end="", flush=True)
    if not text.endswith("\n"):
        print()
    if last == "max_tokens" and arguments.max_tokens == DEFAULTS["max_tokens"]:
        print(f"note: stopped after {arguments.max_tokens} tokens; --max-tokens N asks for more.", file=sys.stderr)
    if last == "context_length":
        print("note: stopped because the model's context, or the server's cache, is full.", file=sys.stderr)
    _tell_cut(stream.input.truncated_tokens if stream.input else 0)
    return 0


def _tell_cut(tokens: int) -> None:
    if tokens:
        print(f"note: the text was too long; {tokens} of its tokens were cut.", file=sys.stderr)
