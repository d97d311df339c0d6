"""From the engine to the wire: what one request got, as messages. Nothing here decides anything."""

import math
from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stretto.engine.errors import StrettoError
from stretto.engine.requests import FinishReason, Overflow, Pooling, Task
from stretto.engine.results import (
    Delta,
    Finished,
    InputReport,
    ModelCard,
    PositionLogprobs,
    Progress,
    PromptScored,
    ScoreAnswer,
    ScoredContinuation,
    ScoredItem,
    Started,
    Telemetry,
    TokenLogprob,
    Usage,
)
from stretto.server.errors import status_of
from stretto.server.generation_reading import Wishes
from stretto.server.reading import OVERFLOW, POOLING
from stretto.v1 import common_pb2, generation_pb2

FINISH = {
    None: generation_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.EOS_TOKEN: generation_pb2.FINISH_REASON_EOS_TOKEN,
    FinishReason.STOP_TOKEN: generation_pb2.FINISH_REASON_STOP_TOKEN,
    FinishReason.STOP_STRING: generation_pb2.FINISH_REASON_STOP_STRING,
    FinishReason.MAX_TOKENS: generation_pb2.FINISH_REASON_MAX_TOKENS,
    FinishReason.CONTEXT_LENGTH: generation_pb2.FINISH_REASON_CONTEXT_LENGTH,
    FinishReason.TIME_LIMIT: generation_pb2.FINISH_REASON_TIME_LIMIT,
}

MAX_EXPONENT = 709.0  # above it exp is no float64

NUMERICS = {"exact": common_pb2.NUMERICS_EXACT, "close": common_pb2.NUMERICS_CLOSE}


def started(event: Started, request_id: str, card: ModelCard) -> generation_pb2.GenerateStreamResponse:
    return generation_pb2.GenerateStreamResponse(
        started=generation_pb2.GenerationStarted(
            request_id=request_id, input=report(event.report), provenance=provenance(card), seed=event.seed
        )
    )


def delta(gained: Iterable[Delta], wishes: Wishes) -> generation_pb2.GenerateStreamResponse:
    return generation_pb2.GenerateStreamResponse(
        delta=generation_pb2.GenerationDelta(candidates=[_candidate_delta(each, wishes) for each in gained])
    )


def progress(event: Progress) -> generation_pb2.GenerateStreamResponse:
    return generation_pb2.GenerateStreamResponse(
        progress=generation_pb2.PrefillProgress(
            processed_tokens=event.processed_tokens,
            total_tokens=event.total_tokens,
            queue_position=event.queue_position,
        )
    )


def prompt_scored(event: PromptScored) -> generation_pb2.GenerateStreamResponse:
    return generation_pb2.GenerateStreamResponse(
        prompt_scored=generation_pb2.PromptScored(logprobs=[_position(each) for each in event.logprobs])
    )


def finished(event: Finished, card: ModelCard, wishes: Wishes) -> generation_pb2.GenerateStreamResponse:
    return generation_pb2.GenerateStreamResponse(
        finished=generation_pb2.GenerationFinished(
            usage=usage(event.usage),
            telemetry=telemetry(event.telemetry) if wishes.telemetry else None,
            provenance=provenance(card),
        )
    )


def answer(
    *,
    request_id: str,
    begun: Started,
    prompt: PromptScored | None,
    whole: Sequence[Delta],
    ended: Finished,
    card: ModelCard,
    wishes: Wishes,
) -> generation_pb2.GenerateResponse:
    """The unary answer; `whole` holds each candidate as one delta from its first token to its last."""
    return generation_pb2.GenerateResponse(
        request_id=request_id,
        candidates=[_candidate(each, wishes) for each in whole],
        input=report(begun.report),
        prompt_logprobs=[_position(each) for each in prompt.logprobs] if prompt else (),
        usage=usage(ended.usage),
        telemetry=telemetry(ended.telemetry) if wishes.telemetry else None,
        provenance=provenance(card),
        seed=begun.seed,
    )


def scores(
    answered: ScoreAnswer, *, request_id: str, card: ModelCard, with_telemetry: bool
) -> generation_pb2.ScoreResponse:
    return generation_pb2.ScoreResponse(
        request_id=request_id,
        results=[_score_result(each) for each in answered.results],
        usage=usage(answered.usage),
        telemetry=telemetry(answered.telemetry) if with_telemetry else None,
        provenance=provenance(card),
    )


def _score_result(result: ScoredItem | StrettoError) -> generation_pb2.ScoreResult:
    if isinstance(result, StrettoError):
        return generation_pb2.ScoreResult(error=status_of(result))
    item = generation_pb2.ScoredItem(
        continuations=[_continuation(each) for each in result.continuations], context=report(result.report)
    )
    return generation_pb2.ScoreResult(item=item)


def _continuation(scored: ScoredContinuation) -> generation_pb2.ContinuationScore:
    mean = scored.logprob / scored.token_count
    return generation_pb2.ContinuationScore(
        logprob=scored.logprob,
        mean_logprob=mean,
        perplexity=math.exp(-mean) if -mean < MAX_EXPONENT else math.inf,
        token_count=scored.token_count,
        is_greedy=scored.is_greedy,
        tokens=[_position(each) for each in scored.tokens],
    )


def report(read: InputReport) -> common_pb2.InputReport:
    return common_pb2.InputReport(
        token_count=read.token_count,
        truncated_tokens=read.truncated_tokens,
        chunk_count=read.chunk_count,
        unknown_token_count=read.unknown_token_count,
    )


def usage(used: Usage) -> common_pb2.Usage:
    return common_pb2.Usage(
        prompt_tokens=used.prompt_tokens,
        cached_prompt_tokens=used.cached_prompt_tokens,
        completion_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
    )


def telemetry(measured: Telemetry) -> common_pb2.Telemetry:
    first = measured.first_token_seconds
    return common_pb2.Telemetry(
        received_time=timestamp(measured.received),
        tokenization_duration=duration(measured.tokenization_seconds),
        queue_duration=duration(measured.queue_seconds),
        prefill_duration=duration(measured.prefill_seconds),
        decode_duration=duration(measured.decode_seconds),
        total_duration=duration(measured.total_seconds),
        time_to_first_token=None if first is None else duration(first),
        step_count=measured.steps,
        min_batch_size=measured.min_batch,
        max_batch_size=measured.max_batch,
        mean_batch_size=measured.mean_batch,
        co_batched_tokens=measured.co_batched_tokens,
        preemption_count=measured.preemptions,
        peak_kv_blocks=measured.peak_blocks,
        queue_position=measured.queue_position,
    )


def provenance(card: ModelCard) -> common_pb2.Provenance:
    return common_pb2.Provenance(
        model=card.name,
        model_version=card.version,
        device=card.device,
        dtype=card.dtype,
        quantization=card.quantization,
        numerics=NUMERICS[card.numerics],
        training_run=card.training_run,
    )


def duration(seconds: float) -> Duration:
    written = Duration()
    written.FromNanoseconds(round(seconds * 1e9))
    return written


def timestamp(seconds: float) -> Timestamp:
    written = Timestamp()
    written.FromNanoseconds(round(seconds * 1e9))
    return written


def overflow(policy: Overflow | None) -> common_pb2.OverflowPolicy:
    return next(number for number, known in OVERFLOW.items() if known is policy)


def pooling(kind: Pooling | None) -> common_pb2.PoolingType:
    return next(number for number, known in POOLING.items() if known is kind)


def default_overflow(card: ModelCard) -> Overflow | None:
    """The one policy that a card can show: that of the first thing the model does."""
    return next((card.default_overflow[task] for task in Task if task in card.default_overflow), None)


def _candidate_delta(gained: Delta, wishes: Wishes) -> generation_pb2.CandidateDelta:
    return generation_pb2.CandidateDelta(
        index=gained.candidate,
        text=gained.text if wishes.text else "",
        token_ids=gained.token_ids if wishes.token_ids else (),
        logprobs=[_position(each) for each in gained.logprobs],
        finish_reason=FINISH[gained.finish],
        stop_string=gained.stop_string,
        stop_token_id=gained.stop_token_id,
        first_token_index=gained.first_token_index,
        cumulative_logprob=gained.cumulative_logprob if gained.finish else None,
    )


def _candidate(whole: Delta, wishes: Wishes) -> generation_pb2.Candidate:
    return generation_pb2.Candidate(
        index=whole.candidate,
        text=whole.text if wishes.text else "",
        token_ids=whole.token_ids if wishes.token_ids else (),
        logprobs=[_position(each) for each in whole.logprobs],
        finish_reason=FINISH[whole.finish],
        stop_string=whole.stop_string,
        stop_token_id=whole.stop_token_id,
        cumulative_logprob=whole.cumulative_logprob,
        token_count=len(whole.token_ids) - whole.num_echoed,
    )


def _position(scored: PositionLogprobs) -> generation_pb2.PositionLogprobs:
    return generation_pb2.PositionLogprobs(chosen=_token(scored.chosen), top=[_token(each) for each in scored.top])


def _token(scored: TokenLogprob) -> generation_pb2.TokenLogprob:
    return generation_pb2.TokenLogprob(
        token_id=scored.token_id, token=scored.token, logprob=scored.logprob, rank=scored.rank
    )
