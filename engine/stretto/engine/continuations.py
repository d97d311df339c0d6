"""Score: a context and what may follow it become one message, and the engine's figures become scores. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from stretto.engine.bounds import check_ids
from stretto.engine.errors import EmptyInput, InputTooLong, ReplyTooLarge, StrettoError
from stretto.engine.messages import Account, Draw, Generate, Scored
from stretto.engine.requests import Overflow, ScoreCall, ScoreItem, TextPrompt, TokenPrompt
from stretto.engine.results import InputReport, PositionLogprobs, ScoredContinuation, ScoredItem
from stretto.engine.served import Served
from stretto.engine.text.logprobs import LogprobWriter
from stretto.engine.text.truncation import fit


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedItem:
    """One item's context and continuations as token ids."""

    context: list[int]
    continuations: list[list[int]]
    report: InputReport

    @property
    def num_tokens(self) -> int:
        return len(self.context) + sum(map(len, self.continuations))


@dataclass(slots=True)
class Scoring:
    """The figures of one item, as they come."""

    item: PreparedItem
    logprobs: list[list[float]] = field(init=False)
    ranks: list[list[int]] = field(init=False)
    account: Account | None = None

    def __post_init__(self) -> None:
        self.logprobs = [[] for _ in self.item.continuations]
        self.ranks = [[] for _ in self.item.continuations]

    def take(self, scored: Scored) -> None:
        """The next tokens of one continuation: the engine goes through each from its first to its last."""
        assert scored.start == len(self.item.context) + len(self.logprobs[scored.candidate])
        self.logprobs[scored.candidate] += scored.logprobs
        self.ranks[scored.candidate] += scored.ranks

    def result(self, served: Served, *, with_tokens: bool) -> ScoredItem:
        writer = LogprobWriter(served.tokenizer, ())
        figures = zip(self.item.continuations, self.logprobs, self.ranks, strict=True)
        return ScoredItem(
            report=self.item.report,
            continuations=tuple(
                ScoredContinuation(
                    logprob=sum(logprobs),
                    token_count=len(ids),
                    is_greedy=all(rank == 1 for rank in ranks),
                    tokens=_positions(writer, ids, logprobs, ranks) if with_tokens else (),
                )
                for ids, logprobs, ranks in figures
            ),
        )


def prepared(served: Served, call: ScoreCall) -> list[PreparedItem | StrettoError]:
    """Every item as token ids, or as its own error; raises ReplyTooLarge where the reply could not be sent."""
    items = [_prepared(served, call, item, f"items[{index}]") for index, item in enumerate(call.items)]
    if call.with_tokens and call.max_logprobs is not None:
        _refuse_unsendable(items, call.max_logprobs)
    return items


def _refuse_unsendable(items: Sequence[PreparedItem | StrettoError], most: int) -> None:
    sizes = [sum(map(len, item.continuations)) if isinstance(item, PreparedItem) else 0 for item in items]
    if sum(sizes) > most:
        fit = sum(total <= most for total in accumulate(sizes))
        raise ReplyTooLarge(
            f"The logprobs of {sum(sizes)} tokens do not fit the reply, which has room for {most}; the first {fit} "
            "items do. Send them in several requests, or without include_token_logprobs.",
            field="items",
            metadata={"inputs": str(len(items)), "max_inputs": str(fit)},
        )


def score_message(served: Served, call: ScoreCall, item: PreparedItem, message_id: int) -> Generate:
    """Continuations are candidates that say nothing further: the context is read once, by the first of them.

    The others share its full blocks; without the prefix cache each reads the context for itself.
    """
    options = call.options
    return Generate(
        id=message_id,
        model=served.spec.name,
        prompt=item.context,
        draw=Draw(temperature=0.0),
        max_tokens=0,
        candidates=len(item.continuations),
        suffixes=item.continuations,
        score_suffixes=True,
        priority=options.priority,
        deadline=options.deadline,
        start_by=options.start_by,
        scope=options.scope,
        share_prefix=options.use_prefix_cache,
    )


def _prepared(
    served: Served, call: ScoreCall, item: ScoreItem | StrettoError, path: str
) -> PreparedItem | StrettoError:
    try:
        if isinstance(item, StrettoError):
            raise item
        continuations = [
            _continuation(served, each, f"{path}.continuations[{index}]")
            for index, each in enumerate(item.continuations)
        ]
        room = served.context - max(map(len, continuations))
        context, cut = _context(served, item.context, room, call.overflow or Overflow.ERROR, f"{path}.context")
    except StrettoError as error:
        return error
    return PreparedItem(context=context, continuations=continuations, report=served.report(context, cut))


def _continuation(served: Served, given: TextPrompt | TokenPrompt, path: str) -> list[int]:
    if isinstance(given, TokenPrompt):
        ids = list(given.ids)
    else:
        (ids,) = served.tokenizer.encode_inner([given.text], parse_special_tokens=given.parse_special_tokens)
    if not ids:
        raise EmptyInput(f"{path} has no tokens; there is nothing to score.", field=path)
    check_ids(tuple(ids), served.checkpoint.vocab_size, path)
    return ids


def _context(
    served: Served, given: TextPrompt | TokenPrompt | None, room: int, policy: Overflow, path: str
) -> tuple[list[int], int]:
    """The context's ids, at most `room`, and how many were cut from its start."""
    head: Sequence[int] = ()
    body = list[int]()
    if isinstance(given, TokenPrompt):
        body = list(given.ids)
    elif given is not None:
        (body,) = served.tokenizer.encode(
            [given.text], add_special_tokens=False, parse_special_tokens=given.parse_special_tokens
        )
        head = served.tokenizer.head
    if not (head or body):
        head = _beginning(served, path)
    check_ids(tuple(body), served.checkpoint.vocab_size, path)
    try:
        return fit(body, room, policy, head=head, tail=(), name=path)
    except InputTooLong as error:
        longest = served.context - room
        raise InputTooLong(
            f"{path} makes {len(head) + len(body)} tokens and its longest continuation {longest}; "
            f"together the limit is {served.context}. Shorten it, or ask for OVERFLOW_POLICY_TRUNCATE_START.",
            field=path,
            metadata={"token_count": str(len(head) + len(body) + longest), "max": str(served.context)},
        ) from error


def _beginning(served: Served, path: str) -> tuple[int]:
    """What stands before a continuation that has no context."""
    tokenizer = served.tokenizer
    if tokenizer.bos_id is not None:
        return (tokenizer.bos_id,)
    if not tokenizer.eos_ids:
        raise EmptyInput(
            f"{path} is empty, and {served.spec.name} has no token that begins or ends a text; give a context.",
            field=path,
        )
    return (min(tokenizer.eos_ids),)


def _positions(
    writer: LogprobWriter, ids: list[int], logprobs: list[float], ranks: list[int]
) -> tuple[PositionLogprobs, ...]:
    return tuple(writer.given(ids, Scored(id=0, candidate=0, start=0, logprobs=logprobs, ranks=ranks)))
