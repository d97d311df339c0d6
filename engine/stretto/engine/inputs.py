"""The inputs of an Embed call as a model reads them: every text becomes token ids here, or its own error. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from stretto.engine.bounds import check_ids
from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.errors import BatchTooLarge, EmptyInput, InvalidRequest, ReplyTooLarge, StrettoError
from stretto.engine.messages import Encode
from stretto.engine.requests import (
    MAX_CALL_CHUNKS,
    Aggregation,
    Chunking,
    EmbedCall,
    Overflow,
    Pooling,
    TextPrompt,
    TokenPrompt,
)
from stretto.engine.results import InputReport, ModelCard
from stretto.engine.text.tokenizer import Tokenizer
from stretto.engine.text.truncation import fit, fit_pair, windows

EMBED_OVERFLOW = Overflow.TRUNCATE_END


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedText:
    """One input, ready to be encoded: its ids, in more than one window where it is cut into chunks.

    `num_vectors` is how many there will be, and `segments` has the segment of each id of a pair.
    """

    windows: list[list[int]]
    report: InputReport
    num_vectors: int
    segments: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRules:
    """Every wish of a call decided, for one model."""

    pooling: Pooling
    normalize: bool
    overflow: Overflow
    chunking: Chunking
    max_chunk_tokens: int
    prefix: str

    @property
    def combines(self) -> bool:
        """Whether an input's chunks become one vector."""
        return self.overflow is Overflow.CHUNK and self.chunking.aggregation is not Aggregation.NONE

    @property
    def most_windows(self) -> int:
        return self.chunking.max_chunks if self.overflow is Overflow.CHUNK else 1


class EmbedReader:
    """Reads the inputs of calls to one model."""

    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer, card: ModelCard) -> None:
        self._checkpoint = checkpoint
        self._tokenizer = tokenizer
        self._card = card
        self._num_segments: int = getattr(checkpoint.config, "num_segments", 1)  # few families have a table of them

    def rules(self, call: EmbedCall) -> EmbedRules:
        """What the call asks of the model; raises where it asks for what the model has not."""
        name, width, layers = self._card.name, self._checkpoint.width, self._checkpoint.config.layers
        if call.dimensions is not None and call.dimensions > width:
            raise InvalidRequest(
                f"config.dimensions is {call.dimensions}; {name} has {width}.", field="config.dimensions"
            )
        if not -layers - 1 <= call.layer <= layers:
            raise InvalidRequest(
                f"config.layer is {call.layer}; {name} has {layers} layers: 0 (the embeddings) to {layers}, or "
                f"-1 (the last) to {-layers - 1}.",
                field="config.layer",
            )
        overflow, chunking = call.overflow or EMBED_OVERFLOW, call.chunking or Chunking()
        return EmbedRules(
            pooling=call.pooling or self._card.default_pooling or Pooling.MEAN,
            normalize=bool(self._card.default_normalize if call.normalize is None else call.normalize),
            overflow=overflow,
            chunking=chunking,
            max_chunk_tokens=self._chunk_tokens(chunking) if overflow is Overflow.CHUNK else 0,
            prefix=self._prefix(call),
        )

    def read(self, call: EmbedCall, rules: EmbedRules) -> list[PreparedText | StrettoError]:
        """Every input as token ids or as its own error; raises where all are too many chunks, or fit no reply."""
        texts = [item for item in call.inputs if isinstance(item, TextPrompt)]
        bodies = iter(self._encoded([rules.prefix + text.text for text in texts]))
        seconds = iter(self._encoded([text.pair for text in texts if text.pair is not None]))
        prepared = [self._prepared(item, i, bodies, seconds, call, rules) for i, item in enumerate(call.inputs)]
        if rules.overflow is Overflow.CHUNK:
            _refuse_many_chunks(prepared)
        if call.max_vectors is not None:
            _refuse_unsendable(prepared, call.max_vectors)
        return prepared

    def messages(
        self, call: EmbedCall, rules: EmbedRules, message_id: int, texts: Sequence[PreparedText | StrettoError]
    ) -> list[Encode]:
        """What to ask the engine: a message for each window of each text, numbered in a row."""
        options, prepared = call.options, [text for text in texts if isinstance(text, PreparedText)]
        windows_ = [(text, ids) for text in prepared for ids in text.windows]
        return [
            Encode(
                id=message_id,
                index=index,
                model=self._card.name,
                ids=ids,
                segments=text.segments,
                layer=call.layer,
                pooling=rules.pooling,
                normalize=rules.normalize and not (rules.combines and len(text.windows) > 1),
                dimensions=call.dimensions or 0,
                priority=options.priority,
                deadline=options.deadline,
                start_by=options.start_by,
            )
            for index, (text, ids) in enumerate(windows_)
        ]

    def _chunk_tokens(self, chunking: Chunking) -> int:
        """The length of a window; refuses one that is too long for the model or has no room for anything new.

        An overlap of more than half would make many times a text's tokens of it.
        """
        limit, special = self._card.max_input_tokens, len(self._tokenizer.head) + len(self._tokenizer.tail)
        size, overlap = chunking.max_chunk_tokens or limit, chunking.overlap_tokens
        if size > limit or size <= special:
            raise InvalidRequest(
                f"config.chunking.max_chunk_tokens is {size}; {self._card.name} takes {special + 1} to {limit}, "
                f"{special} of them special tokens.",
                field="config.chunking.max_chunk_tokens",
            )
        if overlap > (size - special) // 2:
            raise InvalidRequest(
                f"config.chunking.overlap_tokens is {overlap}; a chunk of {size} tokens has room for {size - special}, "
                "and the overlap may be half of that.",
                field="config.chunking.overlap_tokens",
            )
        return size

    def _prefix(self, call: EmbedCall) -> str:
        """What stands before every text: the call's words, the named prompt, or the checkpoint's default prompt."""
        if call.prompt_text is not None:
            return call.prompt_text
        sentence = self._checkpoint.sentence
        name = sentence.default_prompt if call.prompt_name is None else call.prompt_name
        if not name:
            return ""
        if name not in sentence.prompts:
            known = ", ".join(sorted(sentence.prompts)) or "none"
            raise InvalidRequest(
                f"config.prompt_name is {name!r}; the prompts of {self._card.name} are: {known}.",
                field="config.prompt_name",
            )
        return sentence.prompts[name]

    def _encoded(self, texts: Sequence[str]) -> list[list[int] | InvalidRequest]:
        """The bodies of the texts, without special tokens; a text that can't be encoded is its own error."""
        try:
            return list(self._tokenizer.encode(texts, add_special_tokens=False))
        except InvalidRequest as error:
            if len(texts) == 1:
                return [error]
            middle = len(texts) // 2
            return self._encoded(texts[:middle]) + self._encoded(texts[middle:])

    def _prepared(
        self,
        item: TextPrompt | TokenPrompt | InvalidRequest,
        index: int,
        bodies: Iterator[list[int] | InvalidRequest],
        seconds: Iterator[list[int] | InvalidRequest],
        call: EmbedCall,
        rules: EmbedRules,
    ) -> PreparedText | StrettoError:
        name = call.name_of(index)
        try:
            match item:
                case InvalidRequest():
                    raise item
                case TokenPrompt():
                    check_ids(item.ids, self._checkpoint.vocab_size, f"{name}.token_ids")
                    text = self._single(list(item.ids), (), (), name, rules)
                case TextPrompt(pair=None):
                    text = self._single(_sound(next(bodies)), self._tokenizer.head, self._tokenizer.tail, name, rules)
                case TextPrompt():
                    both = next(bodies), next(seconds)  # both, whatever is wrong with the first
                    text = self._pair(_sound(both[0]), _sound(both[1]), name, rules)
            if not any(text.windows):
                raise EmptyInput(f"{name} has no tokens.", field=name)
            self._check_encoded(text, name)
            if call.max_vectors_each is not None and text.num_vectors > call.max_vectors_each:
                raise ReplyTooLarge(
                    f"{name} makes {text.num_vectors} vectors; a reply has room for {call.max_vectors_each}.",
                    metadata={"vectors": str(text.num_vectors), "max_vectors": str(call.max_vectors_each)},
                )
            return text
        except StrettoError as error:
            if error.field is None:
                error.field = name
            return error

    def _single(
        self, body: list[int], head: tuple[int, ...], tail: tuple[int, ...], name: str, rules: EmbedRules
    ) -> PreparedText:
        if rules.overflow is not Overflow.CHUNK:
            ids, cut = fit(body, self._card.max_input_tokens, rules.overflow, head=head, tail=tail, name=name)
            return self._text([ids], cut, rules)
        chunking = rules.chunking
        pieces = windows(
            body,
            rules.max_chunk_tokens,
            chunking.overlap_tokens,
            head=head,
            tail=tail,
            most=chunking.max_chunks,
            name=name,
        )
        return self._text(pieces, 0, rules)

    def _pair(self, first: list[int], second: list[int], name: str, rules: EmbedRules) -> PreparedText:
        field = f"{name}.text_pair"
        template = self._tokenizer.pair
        if template is None or template.num_segments > self._num_segments:
            why = "its tokenizer has no template for two" if template is None else "it has no segments to tell them by"
            raise InvalidRequest(f"{field} is set, and {self._card.name} does not read pairs: {why}.", field=field)
        if rules.overflow is Overflow.CHUNK:
            raise InvalidRequest(
                f"{field} is set, and config.overflow_policy is OVERFLOW_POLICY_CHUNK: a pair is not cut into chunks.",
                field=field,
            )
        ids, segments, cut = fit_pair(first, second, self._card.max_input_tokens, rules.overflow, template, name=name)
        return self._text([ids], cut, rules, segments)

    def _text(self, pieces: list[list[int]], cut: int, rules: EmbedRules, segments: Sequence[int] = ()) -> PreparedText:
        count, unknown = sum(map(len, pieces)), self._tokenizer.unknown_id
        report = InputReport(
            token_count=count,
            truncated_tokens=cut,
            unknown_token_count=0 if unknown is None else sum(ids.count(unknown) for ids in pieces),
            chunk_count=len(pieces),
        )
        num_vectors = count if rules.pooling is Pooling.NONE else 1 if rules.combines else len(pieces)
        return PreparedText(windows=pieces, report=report, num_vectors=num_vectors, segments=list(segments))

    def _check_encoded(self, text: PreparedText, name: str) -> None:
        """Some tokenizers have more tokens than their model: a text that uses one of those is refused, by name."""
        if self._tokenizer.size > self._checkpoint.vocab_size:
            for ids in text.windows:
                check_ids(tuple(ids), self._checkpoint.vocab_size, name)


def _sound(body: list[int] | InvalidRequest) -> list[int]:
    if isinstance(body, InvalidRequest):
        raise body
    return body


def _refuse_many_chunks(texts: Sequence[PreparedText | StrettoError]) -> None:
    sizes = [len(text.windows) if isinstance(text, PreparedText) else 0 for text in texts]
    total, fit_inputs = _fitting(sizes, MAX_CALL_CHUNKS)
    if total > MAX_CALL_CHUNKS:
        raise BatchTooLarge(
            f"{len(texts)} inputs make {total} chunks; the limit is {MAX_CALL_CHUNKS} in one request. The first "
            f"{fit_inputs} inputs fit. Send them in several requests.",
            field="inputs",
            metadata={"chunks": str(total), "max_chunks": str(MAX_CALL_CHUNKS), "max_inputs": str(fit_inputs)},
        )


def _refuse_unsendable(texts: Sequence[PreparedText | StrettoError], most: int) -> None:
    """Refuse vectors that no reply would hold, before any is computed; says how many of the inputs would fit."""
    total, fit_inputs = _fitting([text.num_vectors if isinstance(text, PreparedText) else 0 for text in texts], most)
    if total > most:
        raise ReplyTooLarge(
            f"{len(texts)} inputs make {total} vectors; the reply has room for {most}. The first {fit_inputs} inputs "
            "fit. Send them in several requests.",
            field="inputs",
            metadata={"vectors": str(total), "max_vectors": str(most), "max_inputs": str(fit_inputs)},
        )


def _fitting(sizes: Sequence[int], most: int) -> tuple[int, int]:
    """What the sizes come to, and how many of the first stay within `most`."""
    totals = list(accumulate(sizes, initial=0))
    return totals[-1], sum(total <= most for total in totals[1:])
