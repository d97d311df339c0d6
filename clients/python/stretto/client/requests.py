"""From arguments to protobuf requests."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stretto.client.errors import invalid
from stretto.client.fields import write, write_options
from stretto.client.options import (
    DetokenizeOptions,
    EmbedOptions,
    GenerateOptions,
    ScoreOptions,
    StreamOptions,
    TokenizeOptions,
)
from stretto.client.texts import Message, Prompt, Text, write_messages, write_prompt, write_text
from stretto.v1 import common_pb2, embedding_pb2, generation_pb2, tokenizer_pb2

Options = Mapping[str, Any]


def generate(prompt: Prompt, options: Options, seconds: float) -> generation_pb2.GenerateRequest:
    made = generation_pb2.GenerateRequest()
    write_options(made, GenerateOptions, options)
    made.config.output.include_token_ids = True
    _finish(made.options, options, seconds)
    write_prompt(made, prompt)
    return made


def stream(prompt: Prompt, options: Options, seconds: float) -> generation_pb2.GenerateStreamRequest:
    made = generation_pb2.GenerateStreamRequest(request=generate(prompt, options, seconds))
    write_options(made.stream_options, StreamOptions, options, under="stream_options.")
    if "on_progress" in options:
        made.stream_options.include_prefill_progress = True
    return made


def embed(options: Options, seconds: float) -> embedding_pb2.EmbedRequest:
    """Everything but the texts."""
    made = embedding_pb2.EmbedRequest()
    write_options(made, EmbedOptions, options)
    _finish(made.options, options, seconds)
    return made


def score(
    items: Iterable[tuple[Text, Sequence[Text]]], options: Options, seconds: float
) -> generation_pb2.ScoreRequest:
    made = generation_pb2.ScoreRequest()
    write_options(made, ScoreOptions, options)
    _finish(made.options, options, seconds)
    for index, (context, continuations) in enumerate(items):
        path = f"items[{index}]"
        item = made.items.add()
        write_text(item.context, context, f"{path}.context")
        _refuse_string(continuations, f"{path}.continuations")
        for place, text in enumerate(continuations):
            write_text(item.continuations.add(), text, f"{path}.continuations[{place}]")
    return made


def tokenize(texts: Iterable[Text] | Sequence[Message], options: Options) -> tokenizer_pb2.TokenizeRequest:
    made = tokenizer_pb2.TokenizeRequest()
    write_options(made, TokenizeOptions, options)
    _refuse_string(texts, "inputs")
    given = list(texts)
    if given and isinstance(given[0], Mapping):
        write_messages(made.chat, given)
        return made
    if made.HasField("chat"):
        raise invalid("chat.template and its arguments need a list of messages.", "chat.template")
    for index, text in enumerate(given):
        write_text(made.inputs.add(), text, f"inputs[{index}]")
    return made


def detokenize(token_ids: Iterable[Sequence[int]], options: Options) -> tokenizer_pb2.DetokenizeRequest:
    made = tokenizer_pb2.DetokenizeRequest()
    write_options(made, DetokenizeOptions, options)
    for index, ids in enumerate(token_ids):
        write(made.inputs.add(), "ids", ids, f"inputs[{index}].ids")
    return made


def messages(given: Sequence[Message]) -> Sequence[Message]:
    """The turns of a chat, where nothing but those is meant."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise invalid(
            f"messages must be a list of {{'role': ..., 'content': ...}}; got {type(given).__name__}.", "chat.messages"
        )
    if given and not isinstance(given[0], Mapping):
        raise invalid(
            f"messages must hold mappings of 'role' and 'content'; got {type(given[0]).__name__}.", "chat.messages"
        )
    return given


def _finish(made: common_pb2.RequestOptions, options: Options, seconds: float) -> None:
    """The request id is made here where the caller chose none, so that even a lost call can be found in a log."""
    made.request_id = made.request_id or uuid.uuid4().hex
    # The deadline travels twice: some proxies do not hand grpc's own on.
    write(made, "timeout", seconds, "timeout")
    if options.get("use_prefix_cache") is False:
        made.bypass_prefix_cache = True


def _refuse_string(texts: object, path: str) -> None:
    if isinstance(texts, str):
        raise invalid(f"{path} is one string; pass a list of them.", path)
