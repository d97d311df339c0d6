"""One generation, seen from the server process: the engine's events become what a caller reads. No torch."""

import time
from collections.abc import AsyncIterator, Sequence

from stretto.engine.admission import Place
from stretto.engine.answers import telemetry
from stretto.engine.messages import Account, Failed, Reading, Scored, Stop, Token
from stretto.engine.process import MAX_UNREAD_TOKENS, Passage, error_of
from stretto.engine.requests import GenerateCall
from stretto.engine.results import (
    Delta,
    Finished,
    GenerateEvent,
    PositionLogprobs,
    Progress,
    PromptScored,
    Started,
    Usage,
)
from stretto.engine.text.answer import Answer


async def followed(
    call: GenerateCall,
    way: Passage,
    place: Place,
    answers: Sequence[Answer],
    started: Started,
    tokenized: float,
) -> AsyncIterator[GenerateEvent]:
    """The events of one call. What piles up while the caller is busy comes as one list of deltas.

    Raises what ended the request, after what had come before that.
    """
    yield started
    if ended := [answer.ending() for answer in answers if answer.finish is not None]:
        yield ended
    scored = list[PositionLogprobs]()
    unscored = call.output.prompt_logprobs
    most = _most_events(call)
    first: float | None = None
    account: Account | None = None
    failed: Failed | None = None
    while account is None:
        tokens: dict[int, list[Token]] = {}
        progress: Progress | None = None
        for event in await way.pile(most):
            match event:
                case Failed():
                    failed = event
                    break
                case Scored():
                    scored += answers[event.candidate].given(event)
                case Reading():
                    progress = _progress(event)
                case Token():
                    place.leave()
                    tokens.setdefault(event.candidate, []).append(event)
                    if (account := event.account) is not None:
                        break  # what came after the end is the engine's, not this request's
        if progress is not None:
            yield progress
        if unscored and len(scored) == started.report.token_count - 1:
            unscored = False
            yield PromptScored(logprobs=(answers[0].first_of_prompt(), *scored))
        if first is None and any(token.token >= 0 for group in tokens.values() for token in group):
            first = time.monotonic()
        deltas = list[Delta]()
        for candidate, answer in enumerate(answers):
            if candidate in tokens and answer.finish is None:
                deltas.append(answer.push(tokens[candidate]))
                if answer.finish is not None and account is None and failed is None:
                    way.send([Stop(id=way.id, candidate=candidate)])
        if deltas:
            yield deltas
        if failed is not None:
            raise error_of(failed)
    usage = Usage(
        prompt_tokens=started.report.token_count,
        cached_prompt_tokens=account.cached_tokens,
        completion_tokens=sum(answer.num_tokens for answer in answers),
    )
    yield Finished(usage=usage, telemetry=telemetry(call.options, account, tokenized, first))


def _most_events(call: GenerateCall) -> int:
    """How many tokens may come together, so that their logprobs fit one message."""
    if call.max_message_logprobs is None or call.output.top_logprobs is None:
        return MAX_UNREAD_TOKENS
    return max(1, call.max_message_logprobs // call.output.logprobs_each)


def _progress(event: Reading) -> Progress:
    return Progress(processed_tokens=event.processed, total_tokens=event.total, queue_position=event.queue_position)
