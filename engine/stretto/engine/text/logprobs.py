"""From the engine's figures to what a caller reads of them: each token with its bytes."""

from collections.abc import Iterable, Sequence

from stretto.engine.messages import Scored, Token
from stretto.engine.results import PositionLogprobs, TokenLogprob
from stretto.engine.text.tokenizer import Tokenizer


class LogprobWriter:
    """`also` are the ids that were asked for by number, in the order of their figures."""

    def __init__(self, tokenizer: Tokenizer, also: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._also = also

    def drawn(self, token: Token) -> PositionLogprobs:
        """The position of a token that the engine drew."""
        return self._position(token.token, token.logprob, token.rank, token.top, token.also)

    def given(self, ids: Sequence[int], scored: Scored) -> list[PositionLogprobs]:
        """The positions of tokens that were given: `ids` are the first of those that `scored` tells of."""
        tops = scored.tops or [[] for _ in ids]
        alsos = scored.alsos or [[] for _ in ids]
        figures = zip(ids, scored.logprobs, scored.ranks, tops, alsos, strict=False)
        return [self._position(*each) for each in figures]

    def first(self, token_id: int) -> PositionLogprobs:
        """The first token of a prompt: nothing stands before it, so it has no logprob."""
        return PositionLogprobs(chosen=self._token(token_id, None, 0), top=())

    def _position(
        self,
        token_id: int,
        logprob: float,
        rank: int,
        top: Iterable[tuple[int, float]],
        also: Sequence[float],
    ) -> PositionLogprobs:
        asked = zip(self._also, also, strict=True)
        return PositionLogprobs(
            chosen=self._token(token_id, logprob, rank),
            top=(
                *(self._token(other, value, place) for place, (other, value) in enumerate(top, 1)),
                *(self._token(other, value, 0) for other, value in asked),
            ),
        )

    def _token(self, token_id: int, logprob: float | None, rank: int) -> TokenLogprob:
        token = self._tokenizer.token_bytes(token_id)
        return TokenLogprob(token_id=token_id, token=token, logprob=logprob, rank=rank)
