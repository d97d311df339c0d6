"""A conversation: what was said, and the settings of the next answer. Knows no terminal and no server."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.cli.failure import CommandFailed
from stretto.cli.readers import NotReadable
from stretto.cli.sampling import CHAT_OPTIONS

if TYPE_CHECKING:
    from stretto.client import Message

RESET = "default"


@dataclass(slots=True, kw_only=True)
class Conversation:
    """`settings` are keyword arguments of the client's calls; None is the checkpoint's default.

    `unanswered` is the last question where it failed or was stopped before its answer began.
    """

    system: str = ""
    turns: "list[Message]" = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(CHAT_OPTIONS))
    unanswered: str = ""

    @property
    def messages(self) -> "list[Message]":
        first: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return first + self.turns

    def ask(self, text: str) -> None:
        self.unanswered = ""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """The question that got no answer at all is not part of the conversation; it can still be asked again."""
        self.unanswered = self.turns.pop()["content"]

    def last_question(self) -> str:
        """Forget the last question and its answer; the question."""
        if self.unanswered:
            return self.unanswered
        while self.turns:
            turn = self.turns.pop()
            if turn["role"] == "user":
                return turn["content"]
        raise CommandFailed("there is nothing to retry yet.")

    def set(self, name: str, value: str) -> None:
        """One setting from what was typed."""
        if name not in self.settings:
            raise CommandFailed(f"no setting {name!r}.", f"Settings: {', '.join(self.settings)}.")
        try:
            self.settings[name] = None if value == RESET else CHAT_OPTIONS[name].read(value)
        except NotReadable as error:
            raise CommandFailed(f"{name} {error}.", f"/set {name} {RESET} gives it back to the checkpoint.") from None

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that somebody made, as keyword arguments of the client's calls."""
        return {name: value for name, value in self.settings.items() if value is not None}

    def described(self, name: str) -> str:
        value = self.settings[name]
        return f"{name} {RESET if value is None else value}"

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
