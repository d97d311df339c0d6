"""The flags that choose how text is generated; `generate` and `chat` share them."""

import argparse
from collections.abc import Callable, Mapping

FLAGS: dict[str, tuple[Callable[[str], object], str]] = {
    "max_tokens": (int, "stop after this many"),
    "min_tokens": (int, "do not stop before this many"),
    "temperature": (float, "0 is greedy"),
    "top_k": (int, "draw from the k likeliest; 0 is all"),
    "top_p": (float, "draw from the likeliest that make up this share, in (0, 1]"),
    "min_p": (float, "leave out what is less than this times as likely as the likeliest"),
    "seed": (int, "the same seed draws the same answer"),
}


def add_sampling_arguments(parser: argparse.ArgumentParser, defaults: Mapping[str, object]) -> None:
    """`defaults` are what the command asks for when nobody says; the rest is the checkpoint's to say."""
    group = parser.add_argument_group("generation", "What is not said here is as the checkpoint says.")
    for name, (kind, meaning) in FLAGS.items():
        flag, metavar, default = f"--{name.replace('_', '-')}", "N" if kind is int else "X", defaults.get(name)
        said = meaning if default is None else f"{meaning}; default {default}"
        group.add_argument(flag, type=kind, default=default, metavar=metavar, help=said)
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end where this comes up; repeatable"
    )
