"""The loop of a chat: a line is a command or a message; an answer is shown as it comes and can be stopped."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from stretto.cli.conversation import Conversation
from stretto.cli.failure import CommandFailed
from stretto.cli.jsonlines import print_message
from stretto.cli.keyboard import ReadLine
from stretto.cli.report import RESUMED, show_error
from stretto.cli.tally import DOT, Tally, total_line
from stretto.client import Client, StrettoError

HELP = """\
/system [TEXT]      show or set the system message; "/system -" removes it
/set [NAME VALUE]   show the settings, or change one: /set temperature 0.7, /set temperature default
/retry              ask the last question again
/model [NAME]       show the models, or talk to another one
/stats              what this conversation has cost
/save FILE          write the messages as JSON
/help               this
/quit               leave; so does Ctrl-D
Ctrl-C stops an answer. A message that starts with a slash is written with two: //like this."""


class ChatLoop:
    """Answers go to standard output, everything else to standard error. `model` is who answers."""

    def __init__(self, client: Client, conversation: Conversation, read_line: ReadLine, *, as_json: bool) -> None:
        self._client = client
        self._conversation = conversation
        self._read_line = read_line
        self._as_json = as_json
        self._model = ""
        self._tallies: list[Tally] = []
        self._failed = False
        self._interactive = sys.stdin is not None and sys.stdin.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/system": self._system,
            "/set": self._set,
            "/retry": self._retry,
            "/model": self._switch,
            "/stats": self._stats,
            "/save": self._save,
        }

    def choose_model(self, name: str) -> None:
        """The named model, or the only one that generates."""
        able = [model.id for model in self._client.models() if "generate" in model.tasks]
        if name:
            name = self._client.model(name).id
            if name not in able:
                others = ", ".join(able) or "none"
                raise CommandFailed(f"{name} cannot generate.", f"Loaded models that can: {others}.")
        elif len(able) == 1:
            name = able[0]
        elif able:
            raise CommandFailed(
                f"{len(able)} models can generate: {', '.join(able)}.", "Choose one with --model NAME, or /model NAME."
            )
        else:
            raise CommandFailed(f"no model of {self._client.target} can generate.", "stretto models lists them.")
        self._model = name

    def run(self) -> int:
        """Until the input ends. Exit code 1 if an answer failed and nobody was there to see it."""
        if self._interactive:
            self._say(
                f"{self._model} on {self._client.target}{DOT}/help for commands, Ctrl-C stops an answer, Ctrl-D leaves"
            )
            settings = (f"{name} {value}" for name, value in self._conversation.chosen.items())
            self._say(f"{', '.join(settings)}{DOT}/set changes them")
        while True:
            try:
                line = self._read_line()
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                continue
            if line.strip() == "/quit":
                break
            self._attempt(line)
        return 1 if self._failed and not self._interactive else 0

    def _attempt(self, line: str) -> None:
        """A mistake ends the line, never the conversation."""
        try:
            self._obey(line)
        except (CommandFailed, StrettoError) as error:
            show_error(error, sys.stderr)
            self._failed = True
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            self._say("stopped")

    def _obey(self, line: str) -> None:
        if not line.strip():
            return
        if line.startswith("//") or not line.startswith("/"):
            self._answer(line.removeprefix("/") if line.startswith("//") else line)
            return
        name, _, rest = line.partition(" ")
        if (command := self._commands.get(name)) is None:
            raise CommandFailed(f"no command {name}.", f"Commands: {', '.join(self._commands)}, /quit.")
        command(rest.strip())

    def _answer(self, question: str) -> None:
        self._conversation.ask(question)
        text = ""
        try:
            text = self._whole_answer() if self._as_json else self._streamed_answer()
        finally:
            # What was shown is part of the conversation, stopped or not; a question without any answer is not.
            if text:
                self._conversation.answer(text)
            else:
                self._conversation.take_back()

    def _whole_answer(self) -> str:
        answer = self._client.chat(self._conversation.messages, model=self._model, **self._conversation.chosen)
        print_message(answer.reply)
        return answer.text

    def _streamed_answer(self) -> str:
        began = time.perf_counter()
        pieces: list[str] = []
        tokens, first, stopped = 0, None, False
        messages, chosen = self._conversation.messages, self._conversation.chosen
        with self._client.stream(messages, model=self._model, **chosen) as stream:
            try:
                for piece in stream:
                    first = first or time.perf_counter() - began
                    tokens += len(piece.token_ids)
                    pieces.append(piece.text)
                    print(piece.text, end="", flush=True)
            except KeyboardInterrupt:
                if not (self._interactive and pieces):
                    raise
                stopped = True
            finally:
                print(flush=True)
        usage = stream.usage
        tally = Tally(
            tokens=tokens,
            seconds=time.perf_counter() - began,
            first_token_seconds=first,
            prompt_tokens=usage.prompt_tokens if usage else None,
            cached_tokens=usage.cached_prompt_tokens if usage else 0,
            stopped=stopped,
        )
        self._tallies.append(tally)
        self._say(f"  {tally.line()}")
        if stream.resumed:
            self._say(f"  note: {RESUMED}")
        if stream.input is not None and stream.input.truncated_tokens:
            self._say(f"  note: {stream.input.truncated_tokens} tokens of the conversation were cut.")
        return "".join(pieces)

    def _help(self, _: str) -> None:
        self._say(HELP)

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == "-" else text
        self._say(f"system: {self._conversation.system or '(none)'}")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name:
            if not value.strip():
                raise CommandFailed(f"/set {name} needs a value.", "As in: /set temperature 0.7")
            self._conversation.set(name, value.strip())
        for shown in [name] if name else self._conversation.settings:
            self._say(self._conversation.described(shown))

    def _retry(self, _: str) -> None:
        before = list(self._conversation.turns), self._conversation.unanswered
        question = self._conversation.last_question()
        try:
            self._answer(question)
        except BaseException:
            self._conversation.turns, self._conversation.unanswered = before
            raise

    def _switch(self, name: str) -> None:
        if name:
            self.choose_model(name)
        for model in self._client.models():
            mark = "*" if model.id == self._model else " "
            self._say(f"{mark} {model.id}  {' '.join(model.tasks)}  {model.state}")

    def _stats(self, _: str) -> None:
        self._say(total_line(self._tallies))

    def _save(self, text: str) -> None:
        if not text:
            raise CommandFailed("/save needs a file name.", "As in: /save talk.json")
        path = Path(text).expanduser()
        self._conversation.save(path)
        self._say(f"{path}: {len(self._conversation.messages)} messages")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
