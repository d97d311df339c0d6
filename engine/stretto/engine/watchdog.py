"""When an engine process that is alive says nothing for too long. No torch, no clock: time is what it is told."""

from collections import deque
from collections.abc import Sequence

from stretto.engine.messages import Event, LoadFailed, Ready, Step

STEPS = 100  # how many of the latest steps say what is usual
PATIENCE = 20  # times the longest of them


class Watchdog:
    """Follows one engine process, which says something twice a second when idle and with each step when busy.

    It waits for ever while models are loaded, which takes as long as it takes, and always if `least_seconds` is 0.
    """

    def __init__(self, least_seconds: float, *, num_loads: int) -> None:
        self._least_seconds = least_seconds
        self._num_loading = num_loads
        self._steps = deque[float](maxlen=STEPS)
        self._silent_seconds = 0.0
        self.hung = False

    @property
    def why(self) -> str:
        """What is held against it."""
        return f"hung: it said nothing for {self._silent_seconds:g} s, the limit is {self._limit_seconds:g} s"

    def hear(self, events: Sequence[Event]) -> None:
        """The process has said something."""
        self._silent_seconds = 0.0
        self._num_loading -= sum(isinstance(event, Ready | LoadFailed) for event in events)
        self._steps.extend(event.seconds for event in events if isinstance(event, Step))

    def hangs(self, seconds: float) -> bool:
        """So much more time has passed; whether it is too much by now."""
        if self._least_seconds and self._num_loading <= 0:
            self._silent_seconds += seconds
            self.hung = self._silent_seconds > self._limit_seconds
        return self.hung

    @property
    def _limit_seconds(self) -> float:
        return max(self._least_seconds, PATIENCE * max(self._steps, default=0.0))
