"""What several events of the engine come to as one answer: results in order, usage, times. No torch."""

import time

from stretto.engine.errors import StrettoError
from stretto.engine.messages import Account, Vector
from stretto.engine.requests import EmbedCall, Options
from stretto.engine.results import EmbedAnswer, Embedding, Telemetry, Usage
from stretto.engine.served import PreparedText


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
