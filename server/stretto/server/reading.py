"""From the wire to the engine: a GenerateRequest becomes a GenerateCall, or is refused; every request's options."""

import math
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as Protobuf
from google.protobuf.struct_pb2 import Struct, Value

from stretto.engine.errors import EmptyInput, InvalidRequest
from stretto.engine.requests import (
    SAMPLING_BOUNDS,
    Chat,
    GenerateCall,
    Message,
    Options,
    Output,
    Overflow,
    Pooling,
    Prompt,
    Sampling,
    ScoreCall,
    ScoreItem,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from stretto.server import refusals
from stretto.server.call import Call
from stretto.v1 import common_pb2, embedding_pb2, generation_pb2

MIN_PRIORITY, MAX_PRIORITY = -100, 100
MAX_REQUEST_ID_CHARACTERS = 128
MAX_MESSAGES = 10_000
MAX_RESPONSE_PREFIX_BYTES = 65_536
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller wants to see of an answer, of which the engine need not know."""

    text: bool = True
    token_ids: bool = False
    telemetry: bool = False
    progress: bool = False
    min_tokens_per_message: int = 0


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


def generate_wishes(request: generation_pb2.GenerateRequest) -> Wishes:
    output = request.config.output
    return Wishes(
        text=output.include_text if output.HasField("include_text") else True,
        token_ids=output.include_token_ids,
        telemetry=request.options.include_telemetry,
    )


def stream_wishes(request: generation_pb2.GenerateStreamRequest) -> Wishes:
    output = request.request.config.output
    return Wishes(
        text=output.include_text if output.HasField("include_text") else True,
        token_ids=output.include_token_ids,
        telemetry=request.request.options.include_telemetry,
        progress=request.stream_options.include_prefill_progress,
        min_tokens_per_message=request.stream_options.min_tokens_per_message,
    )


def generate_call(
    request: generation_pb2.GenerateRequest, model: str, call: Call, *, progress: bool = False
) -> GenerateCall:
    """`progress` asks for how far the prompt is read, where there is a stream to say it in."""
    refusals.refuse_adapter(request.adapter)
    refusals.refuse(request, refusals.GENERATE)
    refusals.refuse_unknown(request, "overflow_policy", "overflow_policy")
    return GenerateCall(
        model=model,
        prompt=_prompt(request),
        sampling=_sampling(request.config.sampling),
        stopping=_stopping(request.config.stopping),
        output=_output(request.config.output),
        options=call_options(request.options, call),
        overflow=OVERFLOW[request.overflow_policy],
        max_prompt_tokens=request.max_prompt_tokens or None,
        expected_version=request.expected_model_version,
        response_prefix=_prefix(request.response_prefix),
        resume_after=tuple(tuple(each.ids) for each in request.resume_after),
        progress=progress,
    )


def score_call(request: generation_pb2.ScoreRequest, model: str, call: Call) -> ScoreCall:
    refusals.refuse_adapter(request.adapter)
    refusals.refuse(request, refusals.OPTIONS)
    refusals.refuse_unknown(request, "overflow_policy", "overflow_policy")
    policy = OVERFLOW[request.overflow_policy]
    if policy not in (None, Overflow.ERROR, Overflow.TRUNCATE_START):
        name = common_pb2.OverflowPolicy.Name(request.overflow_policy)
        raise InvalidRequest(
            f"overflow_policy is {name}; a context can only be cut at its start, OVERFLOW_POLICY_TRUNCATE_START.",
            field="overflow_policy",
        )
    return ScoreCall(
        model=model,
        items=tuple(_score_item(each, f"items[{place}]") for place, each in enumerate(request.items)),
        options=call_options(request.options, call),
        overflow=policy,
        with_tokens=request.include_token_logprobs,
    )


def _score_item(item: generation_pb2.ScoreItem, path: str) -> ScoreItem | InvalidRequest:
    """One item, or why it is none: the error stands in its place, and the others are scored."""
    context: TextPrompt | TokenPrompt | InvalidRequest | None = None
    if item.context.WhichOneof("input") or item.context.HasField("text_pair"):
        context = _scored_text(item.context, f"{path}.context")
    if isinstance(context, InvalidRequest):
        return context
    texts = list[TextPrompt | TokenPrompt]()
    for place, each in enumerate(item.continuations):
        text = _scored_text(each, f"{path}.continuations[{place}]")
        if isinstance(text, InvalidRequest):
            return text
        texts.append(text)
    if not texts:
        return EmptyInput(f"{path}.continuations is empty; there is nothing to score.", field=f"{path}.continuations")
    return ScoreItem(context=context, continuations=tuple(texts))


def _prefix(text: str) -> str:
    """The forced start of an answer, of a bounded size."""
    size = len(text.encode())
    if size > MAX_RESPONSE_PREFIX_BYTES:
        raise InvalidRequest(
            f"response_prefix has {size} bytes; the limit is {MAX_RESPONSE_PREFIX_BYTES}.", field="response_prefix"
        )
    return text


def _prompt(request: generation_pb2.GenerateRequest) -> Prompt:
    kind = request.WhichOneof("prompt")
    if kind is None:
        raise EmptyInput("the request has no prompt; set one of text, token_ids and chat.", field="prompt")
    if kind == "text":
        return TextPrompt(
            text=request.text,
            add_special_tokens=request.add_special_tokens if request.HasField("add_special_tokens") else True,
            parse_special_tokens=request.parse_special_tokens if request.HasField("parse_special_tokens") else True,
        )
    for name in ("add_special_tokens", "parse_special_tokens"):
        if getattr(request, name):
            raise InvalidRequest(f"{name} can be true for a prompt of text only; this prompt is {kind}.", field=name)
    return TokenPrompt(ids=tuple(request.token_ids.ids)) if kind == "token_ids" else read_chat(request.chat)


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


def _sampling(config: generation_pb2.SamplingConfig) -> Sampling:
    return Sampling(
        **{name: getattr(config, name) for name in (*SAMPLING_BOUNDS, "seed") if config.HasField(name)},
        logit_bias=dict(config.logit_bias),
        allowed_token_ids=tuple(config.allowed_token_ids),
        banned_token_ids=tuple(config.banned_token_ids),
        banned_strings=tuple(config.banned_strings),
        candidates=config.candidate_count if config.HasField("candidate_count") else 1,
        best_of=config.best_of if config.HasField("best_of") else None,
    )


def _stopping(config: generation_pb2.StoppingConfig) -> Stopping:
    return Stopping(
        max_tokens=config.max_tokens if config.HasField("max_tokens") else None,
        min_tokens=config.min_tokens,
        strings=tuple(config.stop_strings),
        token_ids=tuple(config.stop_token_ids),
        ignore_eos=config.ignore_eos,
        include_stop=config.include_stop,
        time_limit=_seconds(config.time_limit, "config.stopping.time_limit") if config.HasField("time_limit") else None,
    )


def _output(config: generation_pb2.OutputConfig) -> Output:
    asked = config.include_logprobs or config.HasField("top_logprobs") or bool(config.logprob_token_ids)
    return Output(
        echo=config.echo,
        skip_special_tokens=config.skip_special_tokens if config.HasField("skip_special_tokens") else True,
        top_logprobs=config.top_logprobs if asked else None,
        logprob_token_ids=tuple(config.logprob_token_ids),
        prompt_logprobs=config.include_prompt_logprobs,
    )


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
        asked = call.received + _seconds(options.timeout, "options.timeout")
        deadline = asked if deadline is None else min(asked, deadline)
    start_by = None
    if options.HasField("queue_timeout"):
        start_by = call.received + _seconds(options.queue_timeout, "options.queue_timeout")
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


def _seconds(duration: Duration, path: str) -> float:
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


def _scored_text(given: common_pb2.TextInput, path: str) -> TextPrompt | TokenPrompt | InvalidRequest:
    if given.HasField("text_pair"):
        return InvalidRequest(f"{path}.text_pair is set; Score reads single texts only.", field=f"{path}.text_pair")
    return text_input(given, path)
