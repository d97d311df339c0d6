"""From the wire to the engine: what requests of several kinds hold, as options, texts and chats."""

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as Protobuf
from google.protobuf.struct_pb2 import Struct, Value

from stretto.engine.errors import BatchTooLarge, EmptyInput, InvalidRequest
from stretto.engine.requests import (
    Chat,
    Message,
    Options,
    Overflow,
    Pooling,
    TextPrompt,
    TokenPrompt,
)
from stretto.server.call import Call
from stretto.v1 import common_pb2, embedding_pb2, generation_pb2

MIN_PRIORITY, MAX_PRIORITY = -100, 100
MAX_REQUEST_ID_CHARACTERS = 128
MAX_MESSAGES = 10_000
MAX_SALT_BYTES = 256
MAX_SECONDS = 315_576_000_000  # of a Duration, by its definition: ten thousand years

OVERFLOW = {
    common_pb2.OVERFLOW_POLICY_UNSPECIFIED: None,
    common_pb2.OVERFLOW_POLICY_ERROR: Overflow.ERROR,
    common_pb2.OVERFLOW_POLICY_TRUNCATE_END: Overflow.TRUNCATE_END,
    common_pb2.OVERFLOW_POLICY_TRUNCATE_START: Overflow.TRUNCATE_START,
    common_pb2.OVERFLOW_POLICY_TRUNCATE_MIDDLE: Overflow.TRUNCATE_MIDDLE,
    common_pb2.OVERFLOW_POLICY_CHUNK: Overflow.CHUNK,
}

POOLING = {
    common_pb2.POOLING_TYPE_UNSPECIFIED: None,
    common_pb2.POOLING_TYPE_CLS: Pooling.CLS,
    common_pb2.POOLING_TYPE_MEAN: Pooling.MEAN,
    common_pb2.POOLING_TYPE_MAX: Pooling.MAX,
    common_pb2.POOLING_TYPE_LAST_TOKEN: Pooling.LAST_TOKEN,
    common_pb2.POOLING_TYPE_WEIGHTED_MEAN: Pooling.WEIGHTED_MEAN,
    common_pb2.POOLING_TYPE_MEAN_SQRT_LEN: Pooling.MEAN_SQRT_LEN,
    common_pb2.POOLING_TYPE_NONE: Pooling.NONE,
}


def options_of(request: Protobuf) -> common_pb2.RequestOptions | None:
    """The options of any request, or None where its kind has none."""
    if isinstance(request, generation_pb2.GenerateStreamRequest):
        return request.request.options
    if isinstance(request, generation_pb2.GenerateRequest | generation_pb2.ScoreRequest | embedding_pb2.EmbedRequest):
        return request.options
    if isinstance(request, embedding_pb2.EmbedStreamRequest):
        return request.config.options
    return None


def check_request_id(request_id: str) -> None:
    if len(request_id) > MAX_REQUEST_ID_CHARACTERS or not (request_id.isascii() and request_id.isprintable()):
        raise InvalidRequest(
            f"options.request_id must be at most {MAX_REQUEST_ID_CHARACTERS} printable ASCII characters; "
            f"got {len(request_id)} characters.",
            field="options.request_id",
        )


def check_inputs(count: int, most: int) -> None:
    """Before anything is made of each of them: four megabytes hold two million empty inputs."""
    if count == 0:
        raise EmptyInput("inputs is empty; there must be at least one.", field="inputs")
    if count > most:
        raise BatchTooLarge(
            f"inputs holds {count}; the limit is {most}.",
            field="inputs",
            metadata={"inputs": str(count), "max_inputs": str(most)},
        )


def read_chat(chat: common_pb2.ChatPrompt) -> Chat:
    if len(chat.messages) > MAX_MESSAGES:
        raise InvalidRequest(
            f"chat.messages holds {len(chat.messages)} messages; the limit is {MAX_MESSAGES}.", field="chat.messages"
        )
    return Chat(
        messages=tuple(Message(role=each.role, content=each.content) for each in chat.messages),
        template=chat.template,
        add_generation_prompt=chat.add_generation_prompt if chat.HasField("add_generation_prompt") else True,
        arguments=_struct(chat.template_arguments),
    )


def _struct(struct: Struct) -> dict[str, object]:
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: Value) -> object:
    """A JSON value as a template expects it: whole numbers are ints, since a Struct knows doubles only."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _struct(value.struct_value)
    if kind == "list_value":
        return [_value(each) for each in value.list_value.values]
    if kind == "number_value":
        if not math.isfinite(value.number_value):
            path = "chat.template_arguments"
            raise InvalidRequest(f"{path} holds {value.number_value:g}; JSON has finite numbers only.", field=path)
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    return None if kind in (None, "null_value") else getattr(value, kind)


def call_options(options: common_pb2.RequestOptions, call: Call) -> Options:
    if not MIN_PRIORITY <= options.priority <= MAX_PRIORITY:
        raise InvalidRequest(
            f"options.priority must be in [{MIN_PRIORITY}, {MAX_PRIORITY}]; got {options.priority}.",
            field="options.priority",
        )
    if (salt := len(options.cache_salt.encode())) > MAX_SALT_BYTES:
        raise InvalidRequest(
            f"options.cache_salt has {salt} bytes; the limit is {MAX_SALT_BYTES}.", field="options.cache_salt"
        )
    deadline = call.deadline
    if options.HasField("timeout"):
        asked = call.received + seconds_of(options.timeout, "options.timeout")
        deadline = asked if deadline is None else min(asked, deadline)
    start_by = None
    if options.HasField("queue_timeout"):
        start_by = call.received + seconds_of(options.queue_timeout, "options.queue_timeout")
    return Options(
        request_id=call.request_id,
        received=call.received,
        priority=options.priority,
        deadline=deadline,
        start_by=start_by,
        use_prefix_cache=not options.bypass_prefix_cache,
        cache_salt=options.cache_salt,
        tenant=call.client,
    )


def seconds_of(duration: Duration, path: str) -> float:
    if not 0 <= duration.seconds <= MAX_SECONDS or not 0 <= duration.nanos < 1_000_000_000:
        raise InvalidRequest(
            f"{path} must be a duration of 0 to {MAX_SECONDS} s, with 0 to 999999999 ns; "
            f"got {duration.seconds} s and {duration.nanos} ns.",
            field=path,
        )
    return duration.seconds + duration.nanos / 1e9


def text_input(given: common_pb2.TextInput, path: str) -> TextPrompt | TokenPrompt | InvalidRequest:
    """One input, or why it is none: the error stands in its place, and the others are computed."""
    kind = given.WhichOneof("input")
    if kind is None:
        return EmptyInput(f"{path} is empty; set one of text and token_ids.", field=path)
    pair = given.text_pair if given.HasField("text_pair") else None
    if kind == "text":
        return TextPrompt(text=given.text, pair=pair)
    if pair is not None:
        return InvalidRequest(
            f"{path}.text_pair is set, and the first text is token_ids: a pair is of two texts.",
            field=f"{path}.text_pair",
        )
    return TokenPrompt(ids=tuple(given.token_ids.ids))
