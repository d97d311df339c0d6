"""
Make chat.svg, the picture of the README: what a real server answers, as a terminal shows it.

    make serve                                         # in another terminal
    .venv/bin/python docs/images/picture.py
"""

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

QUESTIONS = ["What is the capital of France?", "Name three things that are blue."]
EMBED = ["A man eats food.", "A person is eating a meal.", "The stock market fell."]


def said(*command: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "stretto")
    return subprocess.run([program, *command], input=typed, capture_output=True, text=True, check=True)


def main() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    console.print("$ stretto chat", style="bold", highlight=False)
    for question in QUESTIONS:
        done = said("chat", "--temperature", "0", "--max-tokens", "60", typed=question + "\n")
        console.print(f"> {question}", style="bold cyan", highlight=False)
        console.print(Text(done.stdout.rstrip()))
        console.print(Text(done.stderr.rstrip(), style="dim"))
    quoted = " ".join(f'"{text}"' for text in EMBED)
    console.print(f"\n$ stretto embed {quoted} --similarity", style="bold", highlight=False)
    console.print(Text(said("embed", *EMBED, "--similarity").stdout.rstrip()))
    console.save_svg(str(Path(__file__).with_name("chat.svg")), title="stretto")


if __name__ == "__main__":
    main()
