"""From arguments to protobuf requests: what a caller may write and how it is refused when it cannot be sent."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, TypeVar

from google.protobuf import duration_pb2, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage

from stretto.client.channel import checked_timeout
from stretto.client.errors import invalid
from stretto.v1 import common_pb2, embedding_pb2, generation_pb2


class Message(TypedDict):
    """One turn of a chat: role is "system", "user", "assistant" or "tool"."""

    role: str
    content: str


EnumT = TypeVar("EnumT")
Prompt = str | Sequence[int] | Sequence[Message]
Truncate = Literal["error", "end", "start", "middle"]
Pooling = Literal["cls", "mean", "max", "last_token", "weighted_mean", "mean_sqrt_len"]

OVERFLOW: dict[str, common_pb2.OverflowPolicy] = {
    "error": common_pb2.OVERFLOW_POLICY_ERROR,
    "end": common_pb2.OVERFLOW_POLICY_TRUNCATE_END,
    "start": common_pb2.OVERFLOW_POLICY_TRUNCATE_START,
    "middle": common_pb2.OVERFLOW_POLICY_TRUNCATE_MIDDLE,
}
POOLING: dict[str, common_pb2.PoolingType] = {
    "cls": common_pb2.POOLING_TYPE_CLS,
    "mean": common_pb2.POOLING_TYPE_MEAN,
    "max": common_pb2.POOLING_TYPE_MAX,
    "last_token": common_pb2.POOLING_TYPE_LAST_TOKEN,
    "weighted_mean": common_pb2.POOLING_TYPE_WEIGHTED_MEAN,
    "mean_sqrt_len": common_pb2.POOLING_TYPE_MEAN_SQRT_LEN,
}

# What protobuf takes for a field, for the message of a refusal.
WANTED: dict[int, str] = {
    FieldDescriptor.TYPE_STRING: "text that can be written as UTF-8",
    FieldDescriptor.TYPE_UINT32: "a whole number from 0 to 4294967295",
    FieldDescriptor.TYPE_INT32: "a whole number from -2147483648 to 2147483647",
    FieldDescriptor.TYPE_UINT64: "a whole number from 0 to 18446744073709551615",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_BOOL: "True or False",
}


def options(
    *,
    request_id: str,
    priority: int,
    timeout: float,
    queue_timeout: float | None,
    cache_salt: str,
    use_prefix_cache: bool,
    telemetry: bool,
) -> common_pb2.RequestOptions:
    """The request id is made here where the caller chose none, so that even a lost call can be found in a log."""
    made = common_pb2.RequestOptions()
    values = {
        "request_id": request_id or uuid.uuid4().hex,
        "priority": priority,
        "cache_salt": cache_salt,
        "bypass_prefix_cache": not use_prefix_cache,
        "include_telemetry": telemetry,
    }
    _fill(made, values, "options")
    # The deadline travels twice: some proxies do not hand grpc's own on.
    made.timeout.CopyFrom(_duration(checked_timeout(timeout), "timeout"))
    if queue_timeout is not None:
        made.queue_timeout.CopyFrom(_duration(queue_timeout, "options.queue_timeout"))
    return made


def sampling(
    *,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int | None,
    candidates: int | None,
) -> generation_pb2.SamplingConfig:
    made = generation_pb2.SamplingConfig()
    values = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "candidate_count": candidates,
    }
    _fill(made, values, "config.sampling")
    return made


def stopping(
    *,
    max_tokens: int | None,
    min_tokens: int | None,
    stop: str | Sequence[str],
    stop_token_ids: Sequence[int],
    ignore_eos: bool,
    include_stop: bool,
    time_limit: float | None,
) -> generation_pb2.StoppingConfig:
    made = generation_pb2.StoppingConfig()
    values = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "stop_strings": [stop] if isinstance(stop, str) else list(stop),
        "stop_token_ids": list(stop_token_ids),
        "ignore_eos": ignore_eos,
        "include_stop": include_stop,
    }
    _fill(made, values, "config.stopping")
    if time_limit is not None:
        made.time_limit.CopyFrom(_duration(time_limit, "config.stopping.time_limit"))
    return made


def output(
    *, logprobs: bool, top_logprobs: int | None, echo: bool, skip_special_tokens: bool
) -> generation_pb2.OutputConfig:
    made = generation_pb2.OutputConfig(include_token_ids=True)
    values = {
        "include_logprobs": logprobs,
        "top_logprobs": top_logprobs,
        "echo": echo,
        "skip_special_tokens": None if skip_special_tokens else False,
    }
    _fill(made, values, "config.output")
    return made


def generate_request(
    prompt: Prompt,
    *,
    model: str,
    sampling: generation_pb2.SamplingConfig,
    stopping: generation_pb2.StoppingConfig,
    output: generation_pb2.OutputConfig,
    options: common_pb2.RequestOptions,
    truncate: Truncate | None,
    max_prompt_tokens: int | None,
    add_special_tokens: bool | None,
    parse_special_tokens: bool | None,
    template: str,
    template_arguments: Mapping[str, object] | None,
    expected_model_version: str,
) -> generation_pb2.GenerateRequest:
    made = generation_pb2.GenerateRequest(options=options)
    made.config.sampling.CopyFrom(sampling)
    made.config.stopping.CopyFrom(stopping)
    made.config.output.CopyFrom(output)
    values = {
        "model": model,
        "max_prompt_tokens": max_prompt_tokens,
        "add_special_tokens": add_special_tokens,
        "parse_special_tokens": parse_special_tokens,
        "expected_model_version": expected_model_version,
    }
    _fill(made, values, "")
    if truncate is not None:
        made.overflow_policy = _named(OVERFLOW, truncate, "truncate")
    if isinstance(prompt, str):
        _fill(made, {"text": prompt}, "")
    elif _is_ids(prompt, "prompt"):
        _fill(made.token_ids, {"ids": list(prompt)}, "token_ids")
    else:
        made.chat.CopyFrom(_chat(prompt, template, template_arguments))
    if not made.HasField("chat") and (template or template_arguments is not None):
        raise invalid("chat.template and its arguments need a list of messages as the prompt.", "chat.template")
    return made


def stream_request(
    request: generation_pb2.GenerateRequest, min_tokens_per_piece: int
) -> generation_pb2.GenerateStreamRequest:
    made = generation_pb2.GenerateStreamRequest(request=request)
    if min_tokens_per_piece:
        _fill(made.stream_options, {"min_tokens_per_message": min_tokens_per_piece}, "stream_options")
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


def embed_request(
    texts: Sequence[str] | Sequence[Sequence[int]],
    *,
    model: str,
    pooling: Pooling | None,
    normalize: bool | None,
    dimensions: int | None,
    prompt_name: str | None,
    prompt_text: str | None,
    truncate: Truncate | None,
    options: common_pb2.RequestOptions,
) -> embedding_pb2.EmbedRequest:
    if isinstance(texts, str):
        raise invalid("texts is one string; pass a list of them: embed([text]).", "inputs")
    if prompt_name is not None and prompt_text is not None:
        raise invalid("prompt_name and prompt_text exclude each other; give one.", "config.prompt_name")
    made = embedding_pb2.EmbedRequest(options=options)
    _fill(made, {"model": model}, "")
    values = {
        "normalize": normalize,
        "dimensions": dimensions,
        "prompt_name": prompt_name,
        "prompt_text": prompt_text,
        "pooling": None if pooling is None else _named(POOLING, pooling, "pooling"),
        "overflow_policy": None if truncate is None else _named(OVERFLOW, truncate, "truncate"),
    }
    _fill(made.config, values, "config")
    for index, text in enumerate(texts):
        path = f"inputs[{index}]"
        if isinstance(text, str):
            _fill(made.inputs.add(), {"text": text}, path)
        elif isinstance(text, bytes) or not isinstance(text, Sequence):
            raise invalid(f"{path} must be a text or a list of token ids; got {type(text).__name__}.", path)
        else:
            _fill(made.inputs.add().token_ids, {"ids": list(text)}, f"{path}.token_ids")
    return made


def _chat(messages: Sequence[object], template: str, arguments: Mapping[str, object] | None) -> common_pb2.ChatPrompt:
    made = common_pb2.ChatPrompt()
    _fill(made, {"template": template}, "chat")
    for index, message in enumerate(messages):
        path = f"chat.messages[{index}]"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            held = sorted(message) if isinstance(message, Mapping) else type(message).__name__
            raise invalid(f"{path} must be a mapping of 'role' and 'content', and no more; it is {held}.", path)
        _fill(made.messages.add(), dict(message), path)
    if arguments is not None:
        try:
            struct = struct_pb2.Struct()
            struct.update(dict(arguments))  # type: ignore[arg-type]
        except (ValueError, TypeError) as error:
            raise invalid(f"chat.template_arguments is not plain JSON: {error}.", "chat.template_arguments") from None
        made.template_arguments.CopyFrom(struct)
    return made


def _is_ids(prompt: Sequence[object], path: str) -> bool:
    if isinstance(prompt, Mapping | bytes) or not isinstance(prompt, Sequence):
        raise invalid(
            f"{path} must be a text, a list of token ids or a list of messages; got {type(prompt).__name__}.", path
        )
    if not prompt:
        raise invalid(f"{path} is an empty list; give token ids or messages.", path)
    return isinstance(prompt[0], int)


def _named(table: Mapping[str, EnumT], word: str, path: str) -> EnumT:
    if word not in table:
        raise invalid(f"{path} must be one of {', '.join(table)}; got {word!r}.", path)
    return table[word]


def _duration(seconds: float, path: str) -> duration_pb2.Duration:
    if not (isinstance(seconds, int | float) and 0 <= seconds < 1e10):
        raise invalid(f"{path} must be a number of seconds, at least 0; got {seconds!r}.", path)
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _fill(message: ProtobufMessage, values: Mapping[str, object], path: str) -> None:
    """Set every field that has a value; protobuf's own refusals come out naming the field and the value."""
    for name, value in values.items():
        if value is None:
            continue
        full = f"{path}.{name}" if path else name
        try:
            if isinstance(value, list):
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        except (TypeError, ValueError, OverflowError):  # UnicodeEncodeError, a lone surrogate, is a ValueError
            kind = message.DESCRIPTOR.fields_by_name[name]
            wanted = WANTED.get(kind.type, "something else")
            raise invalid(f"{full} must be {wanted}; got {_shown(value)}.", full) from None


def _shown(value: object) -> str:
    """Short and printable, however long or odd the value is."""
    shown = ascii(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}... ({len(shown)} characters)"
