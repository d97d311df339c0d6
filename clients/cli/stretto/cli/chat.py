"""`stretto chat`: a conversation, on a terminal or through pipes."""

import argparse

from stretto.cli.connection import add_connection_arguments, client_of
from stretto.cli.sampling import CHAT_OPTIONS, add_options

EXAMPLES = """\
examples:
  stretto chat
  stretto chat --system "Answer in one sentence." --temperature 0
  printf 'Hello\\nAnd goodbye\\n' | stretto chat           one message a line; answers on standard output

In the chat: /help shows the commands, Ctrl-C stops an answer, Ctrl-D leaves.
"""

# A small model that draws lots soon talks nonsense, and without a bound it does so until its context is full.
DEFAULTS = {"max_tokens": 256, "temperature": 0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Talk to a model."
    parser.epilog = EXAMPLES
    parser.add_argument("--model", default="", metavar="NAME", help="default: the one that generates")
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    parser.add_argument("--json", action="store_true", help="print each whole reply as one JSON object")
    add_options(parser, CHAT_OPTIONS, DEFAULTS)
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.chat_loop import ChatLoop
    from stretto.cli.conversation import Conversation
    from stretto.cli.keyboard import lines_of_input

    with client_of(arguments) as client:
        conversation = Conversation(system=arguments.system)
        conversation.settings.update({name: getattr(arguments, name) for name in CHAT_OPTIONS})
        loop = ChatLoop(client, conversation, lines_of_input(), as_json=arguments.json)
        loop.choose_model(arguments.model)
        return loop.run()
