"""What several events of the engine come to as one answer: results in order, usage, times. No torch."""

import time
from collections.abc import Sequence

from stretto.engine.continuations import Scoring
from stretto.engine.errors import EngineFailure, InvalidRequest, StrettoError
from stretto.engine.messages import Account, Vector
from stretto.engine.requests import EmbedCall, Options, ScoreCall
from stretto.engine.results import EmbedAnswer, Embedding, ScoreAnswer, ScoredItem, Telemetry, Usage
from stretto.engine.served import PreparedText, Served


def embed_answer(
    call: EmbedCall,
    texts: list[PreparedText | StrettoError],
    outcomes: dict[int, Vector | StrettoError],
    tokenized: float,
) -> EmbedAnswer:
    results: list[Embedding | StrettoError] = []
    for index, text in enumerate(texts):
        outcome = text if isinstance(text, StrettoError) else outcomes[index]
        if isinstance(outcome, Vector):
            assert isinstance(text, PreparedText)
            size = len(outcome.vector) // 4
            outcome_ = Embedding(vector=outcome.vector, dimensions=size, report=text.report)
            results.append(outcome_)
        else:
            results.append(outcome)
    accounts = [outcome.account for outcome in outcomes.values() if isinstance(outcome, Vector)]
    tokens = sum(result.report.token_count for result in results if isinstance(result, Embedding))
    usage = Usage(prompt_tokens=tokens)
    return EmbedAnswer(
        results=tuple(results),
        usage=usage,
        telemetry=telemetry(call.options, _together(accounts), tokenized, None),
    )


def score_answer(
    served: Served, call: ScoreCall, outcomes: Sequence[Scoring | BaseException], tokenized: float
) -> ScoreAnswer:
    """One result an item. What is nobody's own fault (the engine is lost, the time is over) ends the whole call."""
    results = list[ScoredItem | StrettoError]()
    for outcome in outcomes:
        if isinstance(outcome, Scoring):
            results.append(outcome.result(served, with_tokens=call.with_tokens))
        elif isinstance(outcome, InvalidRequest | EngineFailure):
            results.append(outcome)
        else:
            raise outcome
    done = [outcome for outcome in outcomes if isinstance(outcome, Scoring)]
    accounts = [each.account for each in done if each.account is not None]
    usage = Usage(
        prompt_tokens=sum(each.item.num_tokens for each in done),
        cached_prompt_tokens=sum(account.cached_tokens for account in accounts),
    )
    return ScoreAnswer(
        results=tuple(results),
        usage=usage,
        telemetry=telemetry(call.options, _together(accounts), tokenized, None),
    )


def _together(accounts: list[Account]) -> Account:
    """The account of a request out of its texts': the longest times, and the steps' extremes."""
    if not accounts:
        return Account(queue_seconds=0.0, prefill_seconds=0.0, decode_seconds=0.0)
    return Account(
        queue_seconds=max(a.queue_seconds for a in accounts),
        prefill_seconds=max(a.prefill_seconds for a in accounts),
        decode_seconds=0.0,
        steps=max(a.steps for a in accounts),
        min_batch=min(a.min_batch for a in accounts),
        max_batch=max(a.max_batch for a in accounts),
        mean_batch=sum(a.mean_batch for a in accounts) / len(accounts),
        co_batched_tokens=max(a.co_batched_tokens for a in accounts),
        queue_position=min(a.queue_position for a in accounts),
    )


def telemetry(options: Options, account: Account, tokenized: float, first: float | None) -> Telemetry:
    now = time.monotonic()
    return Telemetry(
        received=time.time() - (now - options.received),
        tokenization_seconds=tokenized,
        queue_seconds=account.queue_seconds,
        prefill_seconds=account.prefill_seconds,
        decode_seconds=account.decode_seconds,
        total_seconds=now - options.received,
        first_token_seconds=None if first is None else first - options.received,
        steps=account.steps,
        min_batch=account.min_batch,
        max_batch=account.max_batch,
        mean_batch=account.mean_batch,
        co_batched_tokens=account.co_batched_tokens,
        preemptions=account.preemptions,
        peak_blocks=account.peak_blocks,
        queue_position=account.queue_position,
    )
