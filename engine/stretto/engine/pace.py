"""How long a step takes, learned from the steps so far: so many seconds become so many tokens. No torch."""

MEMORY = 0.95  # how much of what was learned outlives one more step
MIN_TOKENS = 32  # a smaller step is nearly all overhead, whatever the budget of seconds says


class Pace:
    """A line through the steps' tokens and seconds, by least squares with older steps fading.

    Its slope is what one token more costs; what a step costs whatever it holds (reading the weights) is not in it.
    """

    def __init__(self) -> None:
        self._steps = self._tokens = self._seconds = self._tokens_squared = self._product = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        self._steps = MEMORY * self._steps + 1
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + seconds
        self._tokens_squared = MEMORY * self._tokens_squared + tokens * tokens
        self._product = MEMORY * self._product + tokens * seconds

    @property
    def seconds_per_token(self) -> float:
        """What one token more costs; 0 while nothing is known. With steps all alike it is their average cost."""
        if not self._tokens:
            return 0.0
        spread = self._steps * self._tokens_squared - self._tokens**2
        slope = (self._steps * self._product - self._tokens * self._seconds) / spread if spread > 1e-6 else 0.0
        return slope if slope > 0 else self._seconds / self._tokens

    def tokens_in(self, seconds: float | None, most: int) -> int:
        """How many tokens fit, at most `most`; None seconds is no hurry."""
        cost = self.seconds_per_token
        if seconds is None or not cost:
            return most
        return max(min(MIN_TOKENS, most), min(most, int(seconds / cost)))
