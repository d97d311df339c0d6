"""What a caller may write as a prompt or a text, and how it is put on the wire."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from stretto.client.errors import invalid
from stretto.client.fields import write
from stretto.v1 import common_pb2, generation_pb2


class Message(TypedDict):
    """One turn of a chat: role is "system", "user", "assistant" or "tool"."""

    role: str
    content: str


Prompt = str | Sequence[int] | Sequence[Message]
Text = str | Sequence[int] | tuple[str, str]


def write_prompt(request: generation_pb2.GenerateRequest, prompt: Prompt) -> None:
    """Templates and their arguments, which are in `request.chat` already, need messages."""
    if isinstance(prompt, str) or _first(prompt, "prompt") is int:
        if request.HasField("chat"):
            raise invalid("chat.template and its arguments need a list of messages as the prompt.", "chat.template")
        if isinstance(prompt, str):
            write(request, "text", prompt, "text")
        else:
            write(request.token_ids, "ids", prompt, "token_ids.ids")
    else:
        write_messages(request.chat, prompt)


def write_messages(chat: common_pb2.ChatPrompt, messages: Sequence[Any]) -> None:
    for index, message in enumerate(messages):
        path = f"chat.messages[{index}]"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            held = sorted(message) if isinstance(message, Mapping) else type(message).__name__
            raise invalid(f"{path} must be a mapping of 'role' and 'content', and no more; it is {held}.", path)
        made = chat.messages.add()
        for name, value in message.items():
            write(made, name, value, f"{path}.{name}")


def write_text(made: common_pb2.TextInput, text: object, path: str) -> None:
    """A string, a list of token ids, or a pair of strings; anything else is refused."""
    if isinstance(text, str):
        write(made, "text", text, f"{path}.text")
    elif isinstance(text, bytes) or not isinstance(text, Sequence):
        raise invalid(f"{path} must be a text, a pair of texts or a list of token ids; got {_name(text)}.", path)
    elif len(text) == 2 and isinstance(text[0], str):
        write(made, "text", text[0], f"{path}.text")
        write(made, "text_pair", text[1], f"{path}.text_pair")
    else:
        made.token_ids.SetInParent()
        write(made.token_ids, "ids", text, f"{path}.token_ids.ids")


def _first(prompt: Sequence[object], path: str) -> type:
    if isinstance(prompt, Mapping | bytes) or not isinstance(prompt, Sequence):
        raise invalid(f"{path} must be a text, a list of token ids or a list of messages; got {_name(prompt)}.", path)
    if not prompt:
        raise invalid(f"{path} is an empty list; give token ids or messages.", path)
    return int if isinstance(prompt[0], int) else type(prompt[0])


def _name(value: object) -> str:
    return type(value).__name__
