"""
The options that calls take by name: one line each with its type and, beside it, the field of the wire that it sets.

A call says `**options: Unpack[GenerateOptions]`, which editors complete and type checkers check, and is `spelled_out`,
so that `help()` shows every name, too. An option left out, or None, is not sent: it is the server's or the
checkpoint's own default. A line without a path is read by the client itself.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_args, get_type_hints

from stretto.client.errors import invalid
from stretto.client.results import Progress

Truncate = Literal["error", "end", "start", "middle"]
Overflow = Literal["error", "end", "start", "middle", "chunk"]
Pooling = Literal["cls", "mean", "max", "last_token", "weighted_mean", "mean_sqrt_len", "none"]
Encoding = Literal["float32", "float16", "bfloat16", "int8", "uint8", "binary"]
Aggregation = Literal["weighted_mean", "mean", "max", "first", "none"]
CallT = TypeVar("CallT", bound=Callable[..., Any])


class ModelOptions(TypedDict, total=False):
    """Of every call that asks a model."""

    model: Annotated[str | None, "model"]
    timeout: float | None


class CallOptions(ModelOptions, total=False):
    """Of every call that a model computes for."""

    priority: Annotated[int | None, "options.priority"]
    queue_timeout: Annotated[float | None, "options.queue_timeout"]
    telemetry: Annotated[bool | None, "options.include_telemetry"]
    request_id: Annotated[str | None, "options.request_id"]


class CacheOptions(CallOptions, total=False):
    """Of every call that may read cached prompts."""

    cache_salt: Annotated[str | None, "options.cache_salt"]
    use_prefix_cache: bool | None


class TemplateOptions(TypedDict, total=False):
    """Of every call that takes messages."""

    template: Annotated[str | None, "chat.template"]
    template_arguments: Annotated[Mapping[str, object] | None, "chat.template_arguments"]
    add_generation_prompt: Annotated[bool | None, "chat.add_generation_prompt"]


class ChatOptions(CacheOptions, TemplateOptions, total=False):
    """Of `chat`; `generate` and `stream` take all of these, too."""

    max_tokens: Annotated[int | None, "config.stopping.max_tokens"]
    min_tokens: Annotated[int | None, "config.stopping.min_tokens"]
    stop: Annotated[str | Sequence[str] | None, "config.stopping.stop_strings"]
    stop_token_ids: Annotated[Sequence[int] | None, "config.stopping.stop_token_ids"]
    ignore_eos: Annotated[bool | None, "config.stopping.ignore_eos"]
    include_stop: Annotated[bool | None, "config.stopping.include_stop"]
    time_limit: Annotated[float | None, "config.stopping.time_limit"]
    temperature: Annotated[float | None, "config.sampling.temperature"]
    top_k: Annotated[int | None, "config.sampling.top_k"]
    top_p: Annotated[float | None, "config.sampling.top_p"]
    min_p: Annotated[float | None, "config.sampling.min_p"]
    typical_p: Annotated[float | None, "config.sampling.typical_p"]
    repetition_penalty: Annotated[float | None, "config.sampling.repetition_penalty"]
    presence_penalty: Annotated[float | None, "config.sampling.presence_penalty"]
    frequency_penalty: Annotated[float | None, "config.sampling.frequency_penalty"]
    penalty_window: Annotated[int | None, "config.sampling.penalty_window"]
    no_repeat_ngram_size: Annotated[int | None, "config.sampling.no_repeat_ngram_size"]
    logit_bias: Annotated[Mapping[int, float] | None, "config.sampling.logit_bias"]
    allowed_token_ids: Annotated[Sequence[int] | None, "config.sampling.allowed_token_ids"]
    banned_token_ids: Annotated[Sequence[int] | None, "config.sampling.banned_token_ids"]
    banned_strings: Annotated[str | Sequence[str] | None, "config.sampling.banned_strings"]
    seed: Annotated[int | None, "config.sampling.seed"]
    candidates: Annotated[int | None, "config.sampling.candidate_count"]
    best_of: Annotated[int | None, "config.sampling.best_of"]
    response_prefix: Annotated[str | None, "response_prefix"]
    echo: Annotated[bool | None, "config.output.echo"]
    skip_special_tokens: Annotated[bool | None, "config.output.skip_special_tokens"]
    logprobs: Annotated[bool | None, "config.output.include_logprobs"]
    top_logprobs: Annotated[int | None, "config.output.top_logprobs"]
    logprob_token_ids: Annotated[Sequence[int] | None, "config.output.logprob_token_ids"]
    prompt_logprobs: Annotated[bool | None, "config.output.include_prompt_logprobs"]
    truncate: Annotated[Truncate | None, "overflow_policy"]
    max_prompt_tokens: Annotated[int | None, "max_prompt_tokens"]
    expected_model_version: Annotated[str | None, "expected_model_version"]


class GenerateOptions(ChatOptions, total=False):
    """Of `generate`."""

    add_special_tokens: Annotated[bool | None, "add_special_tokens"]
    parse_special_tokens: Annotated[bool | None, "parse_special_tokens"]


class StreamOptions(GenerateOptions, total=False):
    """Of `stream`."""

    min_tokens_per_piece: Annotated[int | None, "stream_options.min_tokens_per_message"]
    on_progress: Callable[[Progress], object] | None
    resume: bool | None


class EmbedOptions(CallOptions, total=False):
    """Of `embed` and `embed_stream`."""

    pooling: Annotated[Pooling | None, "config.pooling"]
    normalize: Annotated[bool | None, "config.normalize"]
    dimensions: Annotated[int | None, "config.dimensions"]
    encoding: Annotated[Encoding | None, "config.encoding"]
    layer: Annotated[int | None, "config.layer"]
    prompt_name: Annotated[str | None, "config.prompt_name"]
    prompt_text: Annotated[str | None, "config.prompt_text"]
    truncate: Annotated[Overflow | None, "config.overflow_policy"]
    max_chunk_tokens: Annotated[int | None, "config.chunking.max_chunk_tokens"]
    overlap_tokens: Annotated[int | None, "config.chunking.overlap_tokens"]
    aggregation: Annotated[Aggregation | None, "config.chunking.aggregation"]
    max_chunks: Annotated[int | None, "config.chunking.max_chunks"]


class ScoreOptions(CacheOptions, total=False):
    """Of `score` and `score_batch`."""

    token_logprobs: Annotated[bool | None, "include_token_logprobs"]
    truncate: Annotated[Literal["error", "start"] | None, "overflow_policy"]


class TokenizeOptions(ModelOptions, TemplateOptions, total=False):
    """Of `tokenize`."""

    add_special_tokens: Annotated[bool | None, "add_special_tokens"]
    parse_special_tokens: Annotated[bool | None, "parse_special_tokens"]
    offsets: Annotated[bool | None, "include_offsets"]
    pieces: Annotated[bool | None, "include_pieces"]
    count_only: Annotated[bool | None, "count_only"]


class DetokenizeOptions(ModelOptions, total=False):
    """Of `detokenize`."""

    skip_special_tokens: Annotated[bool | None, "skip_special_tokens"]


def spelled_out(call: CallT) -> CallT:
    """Show the options one by one wherever the signature is looked at while the program runs."""
    signature = inspect.signature(call)
    *own, last = signature.parameters.values()
    (options,) = get_args(last.annotation)
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in get_type_hints(options).items()
    ]
    vars(call)["__signature__"] = signature.replace(parameters=[*own, *named])
    return call


@cache
def paths(kind: type) -> Mapping[str, str]:
    """The options of that kind that travel, each with its path from the request's root."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


@cache
def words(kind: type, name: str) -> tuple[str, ...]:
    """What may be written for an option that takes one of a few words."""
    literal = next(part for part in get_args(get_type_hints(kind)[name]) if part is not type(None))
    return get_args(literal)


def checked(kind: type, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those that were given; an unknown name is refused as Python refuses it."""
    known = get_type_hints(kind)
    for name in options:
        if name not in known:
            raise TypeError(f"got an unexpected keyword argument {name!r}")
    if options.get("prompt_name") is not None and options.get("prompt_text") is not None:
        raise invalid("prompt_name and prompt_text exclude each other; give one.", "config.prompt_name")
    return {name: value for name, value in options.items() if value is not None}
