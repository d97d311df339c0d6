"""From protobuf replies to plain results; what no server should send is refused here."""

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf import timestamp_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from stretto.client.embeddings import Embedding
from stretto.client.errors import broken
from stretto.client.results import (
    Candidate,
    Generation,
    InputReport,
    ModelInfo,
    Piece,
    PositionLogprobs,
    Progress,
    Provenance,
    Score,
    Scores,
    ServerInfo,
    Telemetry,
    Tokenization,
    Tokenizations,
    TokenLogprob,
    Usage,
)
from stretto.client.statuses import from_status
from stretto.v1 import common_pb2, embedding_pb2, generation_pb2, model_pb2, server_pb2, tokenizer_pb2


def read_generation(reply: generation_pb2.GenerateResponse) -> Generation:
    if not reply.candidates:
        raise broken("the server answered with no candidate at all.", reply.request_id)
    return Generation(
        candidates=tuple(read_candidate(candidate) for candidate in reply.candidates),
        prompt_logprobs=tuple(read_logprobs(position) for position in reply.prompt_logprobs),
        usage=read_usage(reply.usage),
        input=read_input(reply.input),
        provenance=read_provenance(reply.provenance),
        telemetry=read_telemetry(reply.telemetry) if reply.HasField("telemetry") else None,
        seed=reply.seed if reply.HasField("seed") else None,
        request_id=reply.request_id,
        reply=reply,
    )


def read_candidate(candidate: generation_pb2.Candidate) -> Candidate:
    return Candidate(
        index=candidate.index,
        text=candidate.text,
        token_ids=tuple(candidate.token_ids),
        finish_reason=finish_word(candidate.finish_reason),
        stop_string=candidate.stop_string if candidate.HasField("stop_string") else None,
        stop_token_id=candidate.stop_token_id if candidate.HasField("stop_token_id") else None,
        cumulative_logprob=candidate.cumulative_logprob,
        logprobs=tuple(read_logprobs(position) for position in candidate.logprobs),
    )


def read_piece(delta: generation_pb2.CandidateDelta) -> Piece:
    return Piece(
        candidate=delta.index,
        text=delta.text,
        token_ids=tuple(delta.token_ids),
        logprobs=tuple(read_logprobs(position) for position in delta.logprobs),
        finish_reason=finish_word(delta.finish_reason) if delta.finish_reason else None,
        stop_string=delta.stop_string if delta.HasField("stop_string") else None,
        stop_token_id=delta.stop_token_id if delta.HasField("stop_token_id") else None,
        cumulative_logprob=delta.cumulative_logprob if delta.HasField("cumulative_logprob") else None,
    )


def read_logprobs(position: generation_pb2.PositionLogprobs) -> PositionLogprobs:
    return PositionLogprobs(chosen=_token(position.chosen), top=tuple(_token(token) for token in position.top))


def read_progress(progress: generation_pb2.PrefillProgress) -> Progress:
    return Progress(
        processed_tokens=progress.processed_tokens,
        total_tokens=progress.total_tokens,
        queue_position=progress.queue_position,
    )


def read_scores(reply: generation_pb2.ScoreResponse, *, counts: Sequence[int], target: str) -> tuple[Scores, ...]:
    """`counts` are how many continuations each item had: what does not match is refused, never paired up wrongly."""
    if len(reply.results) != len(counts):
        raise broken(f"the server answered {len(reply.results)} results for {len(counts)} items.", reply.request_id)
    return tuple(_scores(result, count, reply, target) for result, count in zip(reply.results, counts, strict=True))


def read_tokenizations(reply: tokenizer_pb2.TokenizeResponse, *, count: int) -> Tokenizations:
    if len(reply.results) != count:
        raise broken(f"the server answered {len(reply.results)} results for {count} texts.")
    items = (
        Tokenization(
            token_count=result.token_count,
            token_ids=tuple(result.token_ids),
            pieces=tuple(result.pieces),
            offsets=tuple((span.start, span.end) for span in result.offsets),
        )
        for result in reply.results
    )
    return Tokenizations(items=tuple(items), max_input_tokens=reply.max_input_tokens, reply=reply)


def read_texts(reply: tokenizer_pb2.DetokenizeResponse, *, count: int) -> tuple[str, ...]:
    if len(reply.texts) != count:
        raise broken(f"the server answered {len(reply.texts)} texts for {count} lists of token ids.")
    return tuple(reply.texts)


def read_server_info(reply: server_pb2.GetServerInfoResponse) -> ServerInfo:
    return ServerInfo(
        version=reply.version,
        api_versions=tuple(reply.api_versions),
        uptime_seconds=_seconds(reply.uptime),
        max_request_bytes=reply.max_request_bytes,
        max_response_bytes=reply.max_response_bytes,
        max_inputs_per_request=reply.max_inputs_per_request,
        max_queue_size=reply.max_queue_size,
        max_batch_tokens=reply.max_batch_tokens,
        device=reply.device,
        cpu_threads=reply.cpu_threads,
        kernels=reply.kernels,
        reply=reply,
    )


def read_models(reply: model_pb2.ListModelsResponse) -> tuple[ModelInfo, ...]:
    return tuple(read_model(model) for model in reply.models)


def read_model(model: model_pb2.Model) -> ModelInfo:
    return ModelInfo(
        id=model.id,
        aliases=tuple(model.aliases),
        version=model.version,
        state=word(model_pb2.ModelState, model.state, "MODEL_STATE_"),
        architecture=model.architecture,
        tasks=tuple(word(model_pb2.ModelTask, task, "MODEL_TASK_") for task in model.tasks),
        parameter_count=model.parameter_count,
        dtype=model.dtype,
        quantization=model.quantization,
        device=model.device,
        numerics=word(common_pb2.Numerics, model.numerics, "NUMERICS_"),
        vocab_size=model.vocab_size,
        max_input_tokens=model.max_input_tokens,
        max_output_tokens=model.max_output_tokens,
        default_overflow=word(common_pb2.OverflowPolicy, model.default_overflow_policy, "OVERFLOW_POLICY_"),
        has_chat_template=model.has_chat_template,
        eos_token_ids=tuple(model.eos_token_ids),
        bos_token_id=model.bos_token_id if model.HasField("bos_token_id") else None,
        embedding_dimensions=model.embedding_dimensions,
        default_pooling=word(common_pb2.PoolingType, model.default_pooling, "POOLING_TYPE_"),
        default_normalize=model.default_normalize if model.HasField("default_normalize") else None,
        default_sampling={field.name: value for field, value in model.default_sampling.ListFields()},
        prompts=dict(model.prompts),
        weight_bytes=model.weight_bytes,
        kv_cache_bytes=model.kv_cache_bytes,
        kv_cache_tokens=model.kv_cache_tokens,
        load_time=_time(model.load_time) if model.HasField("load_time") else None,
        training_run=model.training_run,
        error=from_status(model.error, request_id="", target="") if model.HasField("error") else None,
        reply=model,
    )


def read_input(report: common_pb2.InputReport) -> InputReport:
    return InputReport(
        token_count=report.token_count,
        truncated_tokens=report.truncated_tokens,
        chunk_count=report.chunk_count,
        unknown_token_count=report.unknown_token_count,
    )


def read_usage(usage: common_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def read_provenance(provenance: common_pb2.Provenance) -> Provenance:
    return Provenance(
        model=provenance.model,
        model_version=provenance.model_version,
        device=provenance.device,
        dtype=provenance.dtype,
        quantization=provenance.quantization,
        numerics=word(common_pb2.Numerics, provenance.numerics, "NUMERICS_"),
        training_run=provenance.training_run,
    )


def read_telemetry(telemetry: common_pb2.Telemetry) -> Telemetry:
    first = _seconds(telemetry.time_to_first_token) if telemetry.HasField("time_to_first_token") else None
    return Telemetry(
        received_time=_time(telemetry.received_time),
        tokenization_seconds=_seconds(telemetry.tokenization_duration),
        queue_seconds=_seconds(telemetry.queue_duration),
        prefill_seconds=_seconds(telemetry.prefill_duration),
        decode_seconds=_seconds(telemetry.decode_duration),
        total_seconds=_seconds(telemetry.total_duration),
        first_token_seconds=first,
        step_count=telemetry.step_count,
        min_batch_size=telemetry.min_batch_size,
        max_batch_size=telemetry.max_batch_size,
        mean_batch_size=telemetry.mean_batch_size,
        co_batched_tokens=telemetry.co_batched_tokens,
        preemption_count=telemetry.preemption_count,
        peak_kv_blocks=telemetry.peak_kv_blocks,
        queue_position=telemetry.queue_position,
    )


def word(enum: EnumTypeWrapper, number: int, prefix: str) -> str:
    """ "FINISH_REASON_MAX_TOKENS" is "max_tokens", nothing said is "", a value newer than this client its number."""
    if number == 0:
        return ""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix(prefix).lower()


def finish_word(number: int) -> str:
    return word(generation_pb2.FinishReason, number, "FINISH_REASON_")


def read_embedding(index: int, result: embedding_pb2.EmbedResult, *, request_id: str, target: str) -> Embedding:
    if result.HasField("error"):
        error = from_status(result.error, request_id=request_id, target=target)
        return Embedding(index=index, error=error, input=None, token_ids=(), reply=result)
    embedding = result.embedding
    if not embedding.vectors:
        raise broken(f"the server sent no vector for text {index}.", request_id)
    return Embedding(
        index=index,
        error=None,
        input=read_input(embedding.input),
        token_ids=tuple(embedding.token_ids.ids),
        reply=result,
    )


def _scores(result: generation_pb2.ScoreResult, count: int, reply: generation_pb2.ScoreResponse, target: str) -> Scores:
    item, failed = result.item, result.HasField("error")
    if not failed and len(item.continuations) != count:
        raise broken(
            f"the server answered {len(item.continuations)} scores for {count} continuations.", reply.request_id
        )
    return Scores(
        items=tuple(_score(score) for score in item.continuations),
        error=from_status(result.error, request_id=reply.request_id, target=target) if failed else None,
        input=None if failed else read_input(item.context),
        usage=read_usage(reply.usage),
        provenance=read_provenance(reply.provenance),
        telemetry=read_telemetry(reply.telemetry) if reply.HasField("telemetry") else None,
        request_id=reply.request_id,
        reply=result,
    )


def _score(score: generation_pb2.ContinuationScore) -> Score:
    return Score(
        logprob=score.logprob,
        mean_logprob=score.mean_logprob,
        perplexity=score.perplexity,
        token_count=score.token_count,
        is_greedy=score.is_greedy,
        tokens=tuple(read_logprobs(position) for position in score.tokens),
    )


def _token(token: generation_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        token_id=token.token_id,
        token=token.token,
        logprob=token.logprob if token.HasField("logprob") else None,
        rank=token.rank,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _time(stamp: timestamp_pb2.Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
