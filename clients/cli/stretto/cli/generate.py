"""`stretto generate`: continue a text as it is made, or each line of a file."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.cli.connection import REQUEST, add_connection_arguments, add_request_arguments, client_of
from stretto.cli.failure import used_wrongly
from stretto.cli.readers import ids, whole_number
from stretto.cli.report import RESUMED, note
from stretto.cli.sampling import GENERATE_OPTIONS, Gathered, add_options, keywords
from stretto.cli.texts import given_lines, unwrapped, whole_input

if TYPE_CHECKING:
    from stretto.client import Generation, Stream

EXAMPLES = """\
examples:
  stretto generate "The capital of France is" --max-tokens 8
  stretto generate "Once upon a time" --temperature 0.8 --seed 7 --candidates 3
  cat story.txt | stretto generate --max-tokens 100 > more.txt
  stretto generate "2 + 2 =" --json | jq .usage
  stretto generate --file prompts.txt --json > answers.jsonl      one prompt a line, one answer a line, in order
"""

DEFAULTS = {"max_tokens": 256, "temperature": 0}
DETAILS = ("logprobs", "top_logprobs", "logprob_token_ids", "prompt_logprobs", "telemetry")
SWITCHES = ("ignore_eos", "include_stop", "echo", "skip_special_tokens", "parse_special_tokens", "use_prefix_cache")
KEYWORDS = (*GENERATE_OPTIONS, *DETAILS, *SWITCHES, *REQUEST, "model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Continue a text; the answer goes to standard output as it is made."
    parser.epilog = EXAMPLES
    parser.add_argument("text", nargs="?", metavar="TEXT", help="default, and for '-': standard input")
    parser.add_argument("--file", type=Path, metavar="FILE", help="with --json: a prompt a line")
    parser.add_argument("--json-input", action="store_true", help='lines are JSON: a string, or {"text": ...}')
    parser.add_argument("--model", metavar="NAME", help="default: the one that generates")
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    parser.add_argument("--json", action="store_true", help="print each whole reply as one JSON object")
    add_options(parser, GENERATE_OPTIONS, DEFAULTS)
    _add_switches(parser)
    add_request_arguments(parser)
    add_connection_arguments(parser)


def _add_switches(parser: argparse.ArgumentParser) -> None:
    """None where nothing is said: only what was said is sent."""
    group = parser.add_argument_group("text")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on after the model's end token")
    group.add_argument("--include-stop", action="store_true", default=None, help="keep the stop text in the answer")
    group.add_argument("--echo", action="store_true", default=None, help="print the text in front of the answer")
    group.add_argument(
        "--keep-special-tokens", dest="skip_special_tokens", action="store_false", default=None, help="in the answer"
    )
    group.add_argument(
        "--parse-special-tokens",
        action=argparse.BooleanOptionalAction,
        help="whether control tokens written in the text are control tokens; default yes",
    )
    group.add_argument(
        "--no-prefix-cache",
        dest="use_prefix_cache",
        action="store_false",
        default=None,
        help="compute the text, whatever was computed before",
    )
    details = parser.add_argument_group("details", "With --json.")
    details.add_argument("--logprobs", action="store_true", default=None, help="log probabilities of the tokens")
    details.add_argument("--top-logprobs", type=whole_number, metavar="N", help="the likeliest at each position")
    details.add_argument(
        "--logprob-token-ids", type=ids, action=Gathered, metavar="ID,...", help="of these tokens at each position"
    )
    details.add_argument("--prompt-logprobs", action="store_true", default=None, help="of the tokens of the text")
    details.add_argument("--telemetry", action="store_true", default=None, help="where the time went")


def run(arguments: argparse.Namespace) -> int:
    said = keywords(arguments, KEYWORDS)
    if not arguments.json and (unseen := [name for name in DETAILS if name in said]):
        raise used_wrongly(f"nobody sees {' and '.join(unseen)} without --json.", "Add --json.")
    if arguments.file or arguments.json_input:
        return _answer_lines(arguments, said)
    prompt = whole_input(arguments.text)
    whole = arguments.json or arguments.no_stream or "best_of" in said or said.get("candidates", 1) > 1
    with client_of(arguments) as client:
        if whole:
            return _print_whole(client.generate(prompt, **said), as_json=arguments.json)
        with client.stream(prompt, **said) as stream:
            return _print_pieces(stream, asked=arguments.max_tokens)


def _answer_lines(arguments: argparse.Namespace, said: dict[str, Any]) -> int:
    """A reply a line, in the order of the prompts; a prompt that is refused does not end the others."""
    if arguments.text is not None:
        raise used_wrongly("a text, and --file or --json-input, exclude each other.", "Give one of them.")
    if not arguments.json:
        raise used_wrongly("answers to several prompts can be told apart only with --json.", "Add --json.")
    from stretto.cli.jsonlines import print_message, print_refusal
    from stretto.cli.ordered import answered
    from stretto.client import InvalidRequest

    failed = False
    with ExitStack() as opened:
        client = opened.enter_context(client_of(arguments))
        lines = given_lines(arguments.file, opened)
        prompts = map(unwrapped, lines) if arguments.json_input else lines
        for prompt, answer in answered(prompts, lambda prompt: client.generate(prompt.text, **said)):
            if isinstance(answer, InvalidRequest):
                failed = True
                print_refusal(answer, prompt.name, as_json=True)
            else:
                _tell_cut(answer.input.truncated_tokens, prompt.name)
                print_message(answer.reply)
    return 1 if failed else 0


def _print_whole(answer: "Generation", *, as_json: bool) -> int:
    from stretto.cli.jsonlines import print_message

    _tell_cut(answer.input.truncated_tokens, "the text")
    if as_json:
        print_message(answer.reply)
        return 0
    for candidate in answer.candidates:
        if len(answer.candidates) > 1:
            print(f"[{candidate.index + 1}]")
        print(candidate.text)
    return 0


def _print_pieces(stream: "Stream", *, asked: int) -> int:
    text, last = "", None
    try:
        for piece in stream:
            text, last = piece.text or text, piece.finish_reason or last
            print(piece.text, end="", flush=True)
    finally:  # what follows has a line of its own, an error and "interrupted" too
        if text and not text.endswith("\n"):
            print(flush=True)
    if not text:
        print()
    if last == "max_tokens" and asked == DEFAULTS["max_tokens"]:
        note(f"stopped after {asked} tokens; --max-tokens N asks for more.")
    if last == "context_length":
        note("stopped because the model's context, or the server's cache, is full.")
    if stream.resumed:
        note(RESUMED)
    _tell_cut(stream.input.truncated_tokens if stream.input else 0, "the text")
    return 0


def _tell_cut(tokens: int, what: str) -> None:
    if tokens:
        note(f"{what} was too long; {tokens} of its tokens were cut.")
