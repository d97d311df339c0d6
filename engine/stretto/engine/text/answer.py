"""From the engine's tokens to what a caller reads: text in whole characters, cut at stop strings, with its logprobs."""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.engine.messages import Token
from stretto.engine.requests import FinishReason, GenerateCall
from stretto.engine.results import Delta, PositionLogprobs, TokenLogprob
from stretto.engine.text.stops import StopStrings
from stretto.engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSpec:
    """What the candidates of one request have in common. `context_bound`: max_tokens was cut to the context's room."""

    call: GenerateCall
    tokenizer: Tokenizer
    prompt: Sequence[int]
    context_bound: bool


class Answer:
    """One candidate's text as it grows. `finish` is set once; tokens that come after it are dropped and not counted."""

    def __init__(self, spec: AnswerSpec, candidate: int) -> None:
        call, tokenizer = spec.call, spec.tokenizer
        self.finish: FinishReason | None = None
        self.num_tokens = 0
        self._spec = spec
        self._candidate = candidate
        self._num_sent = 0
        self._logprob = 0.0
        self._echoed = not call.output.echo
        self._detokenizer = tokenizer.detokenizer(skip_special_tokens=call.output.skip_special_tokens)
        self._stops = StopStrings(call.stopping.strings, call.stopping.include_stop)
        self._stop_token: int | None = None

    def push(self, tokens: Sequence[Token]) -> Delta:
        """Take in the tokens that came since the last call, and return what they add."""
        text, ids, logprobs = "", list[int](), list[PositionLogprobs]()
        first, echoed = self._num_sent, 0
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
                self._logprob += token.logprob
                if self._spec.call.output.top_logprobs is not None:
                    logprobs.append(self._position(token))
            text += self._read(token)
        self._num_sent += len(ids)
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

    def _position(self, token: Token) -> PositionLogprobs:
        asked = zip(self._spec.call.output.logprob_token_ids, token.also, strict=True)
        return PositionLogprobs(
            chosen=self._logprob_of(token.token, token.logprob, token.rank),
            top=(
                *(self._logprob_of(other, logprob, rank) for rank, (other, logprob) in enumerate(token.top, 1)),
                *(self._logprob_of(other, logprob, 0) for other, logprob in asked),
            ),
        )

    def _logprob_of(self, token_id: int, logprob: float, rank: int) -> TokenLogprob:
        token = self._spec.tokenizer.token_bytes(token_id)
        return TokenLogprob(token_id=token_id, token=token, logprob=logprob, rank=rank)
