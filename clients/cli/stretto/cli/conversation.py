"""A conversation: what was said, and the settings of the next answer. Knows no terminal and no server."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.cli.failure import CommandFailed
from stretto.cli.sampling import FLAGS

if TYPE_CHECKING:
    from stretto.client import Message

RESET = "default"


@dataclass(slots=True, kw_only=True)
class Conversation:
    """`settings` are arguments of `Client.stream`; None is the checkpoint's default."""

    system: str = ""
    turns: "list[Message]" = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=lambda: dict.fromkeys((*FLAGS, "stop")))

    @property
    def messages(self) -> "list[Message]":
        first: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return first + self.turns

    def ask(self, text: str) -> None:
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Forget the question that got no answer at all."""
        self.turns.pop()

    def last_question(self) -> str:
        """Forget the last question and its answer; the question."""
        while self.turns:
            turn = self.turns.pop()
            if turn["role"] == "user":
                return turn["content"]
        raise CommandFailed("there is nothing to retry yet.")

    def set(self, name: str, value: str) -> None:
        """One setting from what was typed."""
        if name not in self.settings:
            raise CommandFailed(f"no setting {name!r}.", f"Settings: {', '.join(self.settings)}.")
        if value == RESET:
            self.settings[name] = None
        elif name == "stop":
            self.settings[name] = [value]
        else:
            kind = FLAGS[name][0]
            try:
                self.settings[name] = kind(value)
            except ValueError:
                wanted = "a whole number" if kind is int else "a number"
                raise CommandFailed(f"{name} must be {wanted} or {RESET!r}; got {value!r}.") from None

    def described_settings(self) -> list[str]:
        return [f"{name} {RESET if value is None else value}" for name, value in self.settings.items()]

    def save(self, path: Path) -> None:
        """The messages as JSON; written whole or not at all, and never over another file."""
        if path.exists():
            raise CommandFailed(f"{path} is there already.", "Choose another name; /save overwrites nothing.")
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            draft.write_text(json.dumps(self.messages, indent=2, ensure_ascii=False) + "\n", "utf-8")
            draft.rename(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise CommandFailed(f"cannot write {path}: {error.strerror}.") from None
