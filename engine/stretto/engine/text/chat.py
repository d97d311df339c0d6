"""Chats to ids, by the checkpoint's own templates; what somebody typed in a chat never becomes a control token."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes

from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.errors import InvalidRequest
from stretto.engine.requests import Chat
from stretto.engine.text.disguise import Disguise, strings
from stretto.engine.text.special_tokens import named_in_config, named_in_gguf
from stretto.engine.text.template_sandbox import TemplateEnvironment, render
from stretto.engine.text.tokenizer import Tokenizer

TEMPLATE, MESSAGES, ARGUMENTS = "chat.template", "chat.messages", "chat.template_arguments"
ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function"})
WORD = re.compile(r"[A-Za-z0-9_-]{1,40}")
MAX_TEMPLATE_CHARACTERS = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """A template, the words in it (those that it compares texts with or looks up), and the variables that it reads."""

    name: str
    source: str
    template: jinja2.Template
    words: frozenset[str]
    variables: frozenset[str]


class ChatTemplates:
    """The templates of one checkpoint by name, "" the default, and the special tokens that they may write.

    Each is compiled when it is first asked for. Safe to call from several threads.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._templates = checkpoint.chat_templates
        self._special_tokens = _special_tokens(checkpoint)
        self._environment = TemplateEnvironment()
        self._compiled: dict[str, _Compiled] = {}

    def encode(self, chat: Chat, tokenizer: Tokenizer) -> list[int]:
        """The ids of the rendered chat, with no special tokens but those that the template wrote.

        The chat is rendered as it is and once more in disguise. Where no control token has a typed part, the ids are
        those of the plain rendering, the same as transformers gives. Else they come from the disguised one: the control
        tokens that the template wrote, and text between them. A template that looks into the texts may render the two
        differently; then the plain one stands if it has the same control tokens in the same order.
        """
        compiled = self._find(chat.template)
        now = datetime.now()
        plain = self._render(compiled, self._variables(chat, compiled), now)
        [(ids, offsets)] = tokenizer.encode_with_offsets([plain], add_special_tokens=False)
        typed = _typed(chat)
        disguise = Disguise(tokenizer.special_texts, compiled.words, plain + compiled.source + "".join(strings(typed)))
        disguised = self._render(compiled, self._variables(chat, compiled) | disguise.put_on(typed), now)
        if disguise.take_off(disguised) == plain:
            control = _control_spans(plain, ids, offsets, tokenizer)
            if not any(disguise.hides(disguised[start:stop]) for _, start, stop in control):
                return ids
        kept = _kept_apart(disguised, disguise, tokenizer)
        if disguise.take_off(disguised) != plain and _control(ids, tokenizer) == _control(kept, tokenizer):
            return ids
        return kept

    def _find(self, name: str) -> _Compiled:
        if name not in self._templates:
            raise self._unknown(name)
        if name not in self._compiled:
            self._compiled[name] = self._compile(name, self._templates[name])
        return self._compiled[name]

    def _unknown(self, name: str) -> InvalidRequest:
        if not self._templates:
            return InvalidRequest(
                "The model has no chat template. Send a text with the whole prompt in it instead.", field=TEMPLATE
            )
        known = ", ".join(repr(known) for known in sorted(self._templates))
        if not name:
            return InvalidRequest(f"The model has no default chat template. It has: {known}.", field=TEMPLATE)
        return InvalidRequest(f"The model has no chat template {name[:100]!r}. It has: {known}.", field=TEMPLATE)

    def _compile(self, name: str, source: str) -> _Compiled:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise InvalidRequest(
                f"{_called(name)} has {len(source):,} characters; the limit is {MAX_TEMPLATE_CHARACTERS:,}.",
                field=TEMPLATE,
            )
        try:
            tree = self._environment.parse(source)
            words, variables = _words(tree), frozenset(meta.find_undeclared_variables(tree))
            template = self._environment.compile_template(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidRequest(f"{_called(name)} cannot be compiled: {error}.", field=TEMPLATE) from error
        return _Compiled(name=name, source=source, template=template, words=words, variables=variables)

    def _variables(self, chat: Chat, compiled: _Compiled) -> dict[str, Any]:
        fixed = {"messages", "add_generation_prompt", *self._special_tokens}
        if taken := sorted(fixed & set(chat.arguments)):
            raise InvalidRequest(
                f"{ARGUMENTS} holds {taken[0]!r}, which the server sets itself; leave it out.", field=ARGUMENTS
            )
        if unknown := sorted(set(chat.arguments) - compiled.variables):
            known = ", ".join(sorted(compiled.variables - fixed)) or "none"
            raise InvalidRequest(
                f"{ARGUMENTS} holds {unknown[0][:100]!r}, which the template does not read; it reads: {known}.",
                field=ARGUMENTS,
            )
        return {
            "tools": None,
            "documents": None,
            **_typed(chat),
            "add_generation_prompt": chat.add_generation_prompt,
            **self._special_tokens,
        }

    def _render(self, compiled: _Compiled, variables: Mapping[str, Any], now: datetime) -> str:
        try:
            return render(compiled.template, variables, now)
        except Exception as error:  # a template can run into anything that Python raises
            said = str(error) or type(error).__name__
            raise InvalidRequest(
                f"{_called(compiled.name)} refuses this chat: {said[:1000]}", field=MESSAGES
            ) from error


def _special_tokens(checkpoint: Checkpoint) -> dict[str, str]:
    if checkpoint.format == "gguf":
        return named_in_gguf(checkpoint.metadata, checkpoint.where)
    named = named_in_config(checkpoint.tokenizer_config, f"{checkpoint.folder.name}/tokenizer_config.json")
    return {role: token.content for role, token in named.items()}


def _typed(chat: Chat) -> dict[str, Any]:
    """Everything in a chat that came from outside, as the template's variables."""
    messages = [{"role": message.role, "content": message.content} for message in chat.messages]
    return {**chat.arguments, "messages": messages}


def _kept_apart(disguised: str, disguise: Disguise, tokenizer: Tokenizer) -> list[int]:
    """The template's own control tokens, and what stands between them as text."""
    control = _written(disguised, disguise, tokenizer)
    starts = [0, *(stop for _, _, stop in control)]
    stops = [*(start for _, start, _ in control), len(disguised)]
    texts = [disguise.take_off(disguised[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    [first] = tokenizer.encode([texts[0]], add_special_tokens=False, parse_special_tokens=False)
    ids = _as_text(first, tokenizer)
    for (token, _, _), inner in zip(control, tokenizer.encode_inner(texts[1:]), strict=True):
        ids += [token, *_as_text(inner, tokenizer)]
    return ids


def _written(disguised: str, disguise: Disguise, tokenizer: Tokenizer) -> list[tuple[int, int, int]]:
    """The control tokens that the template wrote, and where: in the stretches between what is in disguise."""
    shortest = min(map(len, tokenizer.special_texts), default=0)
    stretches = [
        (at, text)
        for at, text in disguise.undisguised(disguised)
        if len(text) >= shortest and any(control in text for control in tokenizer.special_texts)
    ]
    encoded = tokenizer.encode_with_offsets([text for _, text in stretches], add_special_tokens=False)
    return [
        (token, at + start, at + stop)
        for (at, text), (ids, offsets) in zip(stretches, encoded, strict=True)
        for token, start, stop in _control_spans(text, ids, offsets, tokenizer)
    ]


def _control_spans(
    text: str, ids: list[int], offsets: list[tuple[int, int]], tokenizer: Tokenizer
) -> list[tuple[int, int, int]]:
    """The control tokens that are written in a text, and where; not what stands for a text that cannot be spelt."""
    return [
        (token, start, stop)
        for token, (start, stop) in zip(ids, offsets, strict=True)
        if token in tokenizer.special_ids
        and (token != tokenizer.unknown_id or text[start:stop].strip() in tokenizer.special_texts)
    ]


def _as_text(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Ids of text; refuses a text that a vocabulary spells with a control token even so."""
    forged = (tokenizer.special_ids - {tokenizer.unknown_id}).intersection(ids)
    if forged:
        raise InvalidRequest(
            f"A text in the chat comes out as the control token {min(forged)}, however it is split; leave it out.",
            field=MESSAGES,
        )
    return ids


def _control(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    return [token for token in ids if token in tokenizer.special_ids]


def _words(template: nodes.Template) -> frozenset[str]:
    """The roles, and the names and plain words that a template mentions: typed ones must still be found equal."""
    said = {const.value for const in template.find_all(nodes.Const) if isinstance(const.value, str)}
    said |= {node.attr for node in template.find_all(nodes.Getattr)}
    said |= {node.name for node in template.find_all(nodes.Name)}
    return ROLES | {"content", "role"} | {word for word in said if WORD.fullmatch(word)}


def _called(name: str) -> str:
    return f"The chat template {name!r}" if name else "The model's chat template"
