"""The options of an answer, once: each is a flag, a setting of a chat, and a keyword argument of the client's calls."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stretto.cli.readers import (
    METAVARS,
    REPEATABLE,
    Reader,
    biases,
    cut,
    ids,
    number,
    text,
    texts,
    variables,
    whole_number,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """`name` is the client's word for it."""

    name: str
    read: Reader
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def _named(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


OPTIONS = _named(
    Option(name="max_tokens", read=whole_number, help="stop after this many"),
    Option(name="min_tokens", read=whole_number, help="do not stop before this many"),
    Option(name="time_limit", read=number, help="stop after this many seconds"),
    Option(name="stop", read=texts, help="end where this comes up; repeatable"),
    Option(name="stop_token_ids", read=ids, help="end at one of these tokens; repeatable"),
    Option(name="temperature", read=number, help="0 is greedy"),
    Option(name="top_k", read=whole_number, help="draw from the k likeliest; 0 is all"),
    Option(name="top_p", read=number, help="draw from the likeliest that make up this share, in (0, 1]"),
    Option(name="min_p", read=number, help="leave out what is less than this times as likely as the likeliest"),
    Option(name="typical_p", read=number, help="draw from the most typical that make up this share, in (0, 1]"),
    Option(name="seed", read=whole_number, help="the same seed draws the same answer"),
    Option(name="repetition_penalty", read=number, help="above 1: less of what the prompt and the answer hold"),
    Option(name="presence_penalty", read=number, help="above 0: less of what the answer holds"),
    Option(name="frequency_penalty", read=number, help="above 0: less of it for each time the answer holds it"),
    Option(name="penalty_window", read=whole_number, help="penalties look at the last N tokens; default all"),
    Option(name="no_repeat_ngram_size", read=whole_number, help="no N tokens in a row come twice"),
    Option(name="logit_bias", read=biases, help="added to these tokens' logits; repeatable"),
    Option(name="allowed_token_ids", read=ids, help="draw from these alone; repeatable"),
    Option(name="banned_token_ids", read=ids, help="never draw these; repeatable"),
    Option(name="banned_strings", read=texts, help="never say this; repeatable"),
    Option(name="truncate", read=cut, help="of a text that is too long: error, end, start or middle"),
)
CHAT_OPTIONS = OPTIONS | _named(
    Option(name="template", read=text, help="one of the checkpoint's chat templates, by its name"),
    Option(name="template_arguments", read=variables, help="further variables of the chat template"),
)
GENERATE_OPTIONS = OPTIONS | _named(
    Option(name="max_prompt_tokens", read=whole_number, help="with --truncate: cut to this many"),
    Option(name="response_prefix", read=text, help="the answer goes on from this; --echo prints it too"),
    Option(name="candidates", read=whole_number, help="answers to the same text; printed when whole"),
    Option(name="best_of", read=whole_number, help="draw this many, print the --candidates likeliest when whole"),
)


class Gathered(argparse.Action):
    """A flag that may be repeated: its lists are joined, its mappings united."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        before = getattr(namespace, self.dest)
        joined = values if before is None else before | values if isinstance(values, Mapping) else [*before, *values]
        setattr(namespace, self.dest, joined)


def add_options(parser: argparse.ArgumentParser, options: Mapping[str, Option], defaults: Mapping[str, object]) -> None:
    """`defaults` are what the command asks for when nobody says; the rest is the checkpoint's to say."""
    group = parser.add_argument_group("generation", "What is not said here is as the checkpoint says.")
    for name, option in options.items():
        default = defaults.get(name)
        group.add_argument(
            option.flag,
            type=option.read,
            action=Gathered if option.read in REPEATABLE else "store",
            default=default,
            metavar=METAVARS[option.read],
            help=option.help if default is None else f"{option.help}; default {default}",
        )


def keywords(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """What was said, as keyword arguments of the client's calls."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
