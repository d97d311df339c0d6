"""What several events of the engine come to as one answer: results in order, usage, times. No torch."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from stretto.engine.aggregation import combined
from stretto.engine.continuations import Scoring
from stretto.engine.errors import EngineFailure, InvalidRequest, StrettoError
from stretto.engine.inputs import EmbedRules, PreparedText
from stretto.engine.messages import Account, Vector
from stretto.engine.requests import EmbedCall, Options, Pooling, ScoreCall
from stretto.engine.results import EmbedAnswer, Embedding, ScoreAnswer, ScoredItem, Telemetry, Usage
from stretto.engine.served import Served

Outcome = Vector | StrettoError  # what became of one window


def embed_answer(
    call: EmbedCall,
    rules: EmbedRules,
    texts: Sequence[PreparedText | StrettoError],
    outcomes: Sequence[Outcome],
    tokenized: float,
) -> EmbedAnswer:
    """`outcomes` has one for each window of each prepared text, in a row."""
    rest = iter(outcomes)
    results = [
        _embedding(text, [next(rest) for _ in text.windows], rules) if isinstance(text, PreparedText) else text
        for text in texts
    ]
    accounts = [outcome.account for outcome in outcomes if isinstance(outcome, Vector)]
    tokens = sum(result.report.token_count for result in results if isinstance(result, Embedding))
    return EmbedAnswer(
        results=tuple(results),
        usage=Usage(prompt_tokens=tokens),
        telemetry=telemetry(call.options, together(accounts), tokenized, None),
    )


def _embedding(text: PreparedText, outcomes: Sequence[Outcome], rules: EmbedRules) -> Embedding | StrettoError:
    """What became of the windows of one text, as one result; the first that failed fails it."""
    vectors = list[bytes]()
    for outcome in outcomes:
        if not isinstance(outcome, Vector):
            return outcome
        vectors.append(outcome.vector)
    together = b"".join(vectors)
    if len(vectors) > 1 and rules.combines:
        counts, aggregation = [len(ids) for ids in text.windows], rules.chunking.aggregation
        rows_CD = np.frombuffer(together, "<f4").reshape(len(vectors), -1)
        together = combined(rows_CD, counts, aggregation, normalize=rules.normalize)
    ids = tuple(chain.from_iterable(text.windows)) if rules.pooling is Pooling.NONE else ()
    return Embedding(
        vectors=together, dimensions=len(together) // 4 // text.num_vectors, report=text.report, token_ids=ids
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
        telemetry=telemetry(call.options, together(accounts), tokenized, None),
    )


def together(accounts: list[Account]) -> Account:
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
        preemptions=sum(a.preemptions for a in accounts),
        peak_blocks=max(a.peak_blocks for a in accounts),
        queue_position=min(a.queue_position for a in accounts),
    )


def joined(before: Telemetry | None, more: Telemetry) -> Telemetry:
    """Of several calls of one stream: the sums, the longest times, and the steps' extremes."""
    if before is None:
        return more
    both, steps = (before, more), before.steps + more.steps
    return replace(
        more,
        tokenization_seconds=sum(each.tokenization_seconds for each in both),
        queue_seconds=max(each.queue_seconds for each in both),
        prefill_seconds=max(each.prefill_seconds for each in both),
        total_seconds=max(each.total_seconds for each in both),
        steps=steps,
        min_batch=min((each.min_batch for each in both if each.steps), default=0),
        max_batch=max(each.max_batch for each in both),
        mean_batch=sum(each.mean_batch * each.steps for each in both) / max(1, steps),
        co_batched_tokens=sum(each.co_batched_tokens for each in both),
        queue_position=before.queue_position,
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
