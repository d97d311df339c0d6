"""From the wire to the engine: what Generate, GenerateStream and Score ask becomes a call, or is refused by name."""

from dataclasses import dataclass, replace

from stretto.engine.errors import EmptyInput, InvalidRequest
from stretto.engine.requests import (
    GenerateCall,
    Output,
    Overflow,
    Prompt,
    ScoreCall,
    ScoreItem,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from stretto.engine.sampling import SAMPLING_BOUNDS, Sampling
from stretto.server import refusals
from stretto.server.call import Call
from stretto.server.reading import OVERFLOW, call_options, read_chat, seconds_of, text_input
from stretto.v1 import common_pb2, generation_pb2

MAX_RESPONSE_PREFIX_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller wants to see of an answer, of which the engine need not know."""

    text: bool = True
    token_ids: bool = False
    telemetry: bool = False
    progress: bool = False
    min_tokens_per_message: int = 0


def generate_wishes(request: generation_pb2.GenerateRequest) -> Wishes:
    output = request.config.output
    return Wishes(
        text=output.include_text if output.HasField("include_text") else True,
        token_ids=output.include_token_ids,
        telemetry=request.options.include_telemetry,
    )


def stream_wishes(request: generation_pb2.GenerateStreamRequest) -> Wishes:
    return replace(
        generate_wishes(request.request),
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
        time_limit=seconds_of(config.time_limit, "config.stopping.time_limit")
        if config.HasField("time_limit")
        else None,
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


def _prefix(text: str) -> str:
    """The forced start of an answer, of a bounded size."""
    size = len(text.encode())
    if size > MAX_RESPONSE_PREFIX_BYTES:
        raise InvalidRequest(
            f"response_prefix has {size} bytes; the limit is {MAX_RESPONSE_PREFIX_BYTES}.", field="response_prefix"
        )
    return text


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


def _scored_text(given: common_pb2.TextInput, path: str) -> TextPrompt | TokenPrompt | InvalidRequest:
    if given.HasField("text_pair"):
        return InvalidRequest(f"{path}.text_pair is set; Score reads single texts only.", field=f"{path}.text_pair")
    return text_input(given, path)
