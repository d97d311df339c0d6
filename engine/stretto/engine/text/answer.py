"""From the engine's tokens to what a caller reads: text in whole characters, cut at stop strings, with its logprobs."""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.engine.errors import InvalidRequest
from stretto.engine.messages import Finish, Scored, Token
from stretto.engine.requests import FinishReason, GenerateCall
from stretto.engine.results import Delta, PositionLogprobs
from stretto.engine.text.logprobs import LogprobWriter
from stretto.engine.text.stops import StopStrings
from stretto.engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSpec:
    """What the candidates of one request have in common.

    `stop_ids` end an answer, `max_tokens` is the most it may have; `context_bound`: that was cut to the context's room.
    """

    call: GenerateCall
    tokenizer: Tokenizer
    prompt: Sequence[int]
    stop_ids: frozenset[int]
    max_tokens: int
    context_bound: bool


class Answer:
    """One candidate's text as it grows. `finish` is set once; tokens that come after it are dropped and not counted.

    An answer that is resumed starts behind the ids that its caller has: what those let out is not sent again.
    """

    def __init__(self, spec: AnswerSpec, candidate: int) -> None:
        call, tokenizer = spec.call, spec.tokenizer
        self.finish: FinishReason | None = None
        self.num_tokens = 0
        self._spec = spec
        self._candidate = candidate
        self._num_sent = 0
        self._logprob: float | None = 0.0
        self._echoed = not call.output.echo
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens=call.output.skip_special_tokens)
        self._stops = StopStrings(call.stopping.strings, call.stopping.include_stop)
        self._stop_token: int | None = None
        self._logprobs = LogprobWriter(tokenizer, call.output.logprob_token_ids)
        if call.resume_after:
            self._replay(call.resume_after[candidate])

    def _replay(self, ids: Sequence[int]) -> None:
        """Go through what the caller has already, an end that lies in it included."""
        if not self._echoed:
            self._echoed, self._num_sent = True, len(self._spec.prompt)
            self._detokenizer.push(self._spec.prompt)
        for number, token_id in enumerate(ids, 1):
            if self.finish is not None or number > self._spec.max_tokens:
                raise InvalidRequest(
                    f"resume_after[{self._candidate}] holds {len(ids)} ids; the answer ended at number {number - 1}.",
                    field="resume_after",
                )
            ends = token_id in self._spec.stop_ids and number > self._spec.call.stopping.min_tokens
            finish: Finish | None = "stop" if ends else "length" if number == self._spec.max_tokens else None
            self.num_tokens = number
            self._read(Token(id=0, candidate=self._candidate, token=token_id, finish=finish))
        self._num_sent += len(ids)
        if self.finish is not None:
            self._logprob = None

    def ending(self) -> Delta:
        """The end of an answer that had ended already where it was to be resumed."""
        return self._delta("", [], [])

    def push(self, tokens: Sequence[Token]) -> Delta:
        """Take in the tokens that came since the last call, and return what they add."""
        text, ids, logprobs, echoed = "", list[int](), list[PositionLogprobs](), 0
        if not self._echoed:
            self._echoed, ids = True, list(self._spec.prompt)
            echoed = len(ids)
            text = self._detokenizer.push(ids)
        for token in tokens:
            if self.finish is not None:
                break
            if token.token >= 0:
                ids.append(token.token)
                self.num_tokens += 1
                self._add(token.logprob)
                if self._spec.call.output.top_logprobs is not None:
                    logprobs.append(self._logprobs.drawn(token))
            text += self._read(token)
        return self._delta(text, ids, logprobs, echoed)

    def first_of_prompt(self) -> PositionLogprobs:
        return self._logprobs.first(self._spec.prompt[0])

    def given(self, scored: Scored) -> list[PositionLogprobs]:
        """The logprobs of the prompt's tokens among these; those of the answer's own count towards its sum."""
        prompt, stop = self._spec.prompt, scored.start + len(scored.logprobs)
        num_prompt = max(0, min(stop, len(prompt)) - scored.start)
        for logprob in scored.logprobs[num_prompt:]:
            self._add(logprob)
        return self._logprobs.given(prompt[scored.start : scored.start + num_prompt], scored)

    def _add(self, logprob: float) -> None:
        if self._logprob is not None:
            self._logprob += logprob

    def _delta(self, text: str, ids: list[int], logprobs: list[PositionLogprobs], echoed: int = 0) -> Delta:
        first, self._num_sent = self._num_sent, self._num_sent + len(ids)
        return Delta(
            candidate=self._candidate,
            text=text,
            token_ids=tuple(ids),
            first_token_index=first,
            num_echoed=echoed,
            logprobs=tuple(logprobs),
            finish=self.finish,
            stop_string=self._stops.matched,
            stop_token_id=self._stop_token,
            cumulative_logprob=self._logprob,
        )

    def _read(self, token: Token) -> str:
        """The text that one event lets out; sets `finish` when it is the last."""
        stopping = self._spec.call.stopping
        by_stop_token = token.finish == "stop" and token.token >= 0
        text = ""
        if token.token >= 0 and (stopping.include_stop or not by_stop_token):
            piece = self._detokenizer.push([token.token])
            text = self._stops.push(piece, armed=self.num_tokens >= stopping.min_tokens)
        if self._stops.matched is not None:
            self.finish = FinishReason.STOP_STRING
        elif token.finish is not None:
            text += self._stops.push(self._detokenizer.finish(), armed=False) + self._stops.finish()
            self.finish = self._reason(token)
            self._stop_token = token.token if by_stop_token else None
        return text

    def _reason(self, token: Token) -> FinishReason:
        if token.finish == "time":
            return FinishReason.TIME_LIMIT
        if token.finish == "length":
            return FinishReason.CONTEXT_LENGTH if self._spec.context_bound else FinishReason.MAX_TOKENS
        return FinishReason.EOS_TOKEN if token.token in self._spec.tokenizer.eos_ids else FinishReason.STOP_TOKEN
