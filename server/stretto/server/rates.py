"""How much one client may ask: token buckets for its requests and its tokens, and a count of its streams."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from stretto.server.errors import TenantLimit

SWEPT = 2  # clients looked at for each request: more than can come in, so that the idle are forgotten
EPSILON = 1e-9  # what rounding may have lost of a bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many a second, and so many at once after a pause. `unit` is for the message."""

    per_second: float
    burst: float
    unit: str


class Bucket:
    """What is left of a rate. Taking more than the burst is possible when the bucket is full, and leaves a debt."""

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._level = rate.burst
        self._now = now

    def wait(self, cost: float, now: float) -> float:
        """Seconds until so much can be taken; 0: now."""
        self._fill(now)
        short = min(cost, self.rate.burst) - self._level
        return short / self.rate.per_second if short > EPSILON else 0.0

    def take(self, cost: float) -> None:
        """Take so much, or give it back where it is negative."""
        self._level = min(self.rate.burst, self._level - cost)

    def full(self, now: float) -> bool:
        self._fill(now)
        return self._level >= self.rate.burst

    def _fill(self, now: float) -> None:
        self._level = min(self.rate.burst, self._level + (now - self._now) * self.rate.per_second)
        self._now = now


class Allowance:
    """What one client has left."""

    def __init__(self, requests: Rate | None, tokens: Rate | None, now: float) -> None:
        self.requests = Bucket(requests, now) if requests else None
        self.tokens = Bucket(tokens, now) if tokens else None
        self.num_streams = 0

    def idle(self, now: float) -> bool:
        """A new one would be the same."""
        return not self.num_streams and all(each.full(now) for each in (self.requests, self.tokens) if each)


class Charge:
    """What a request was charged for its tokens: by its size at the door, corrected when they are counted."""

    def __init__(self, bucket: Bucket | None, tokens: float) -> None:
        self._bucket = bucket
        self._tokens = tokens

    def correct(self, tokens: int) -> None:
        if self._bucket is not None:
            self._bucket.take(tokens - self._tokens)
            self._tokens = tokens


class Rates:
    """Every client's allowance. A rate that is None, and 0 streams, are not limited."""

    def __init__(
        self,
        *,
        requests: Rate | None,
        tokens: Rate | None,
        max_streams: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._tokens = tokens
        self._max_streams = max_streams
        self._clock = clock
        self._clients: OrderedDict[str, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    @contextmanager
    def admitted(self, client: str, *, tokens: int, streaming: bool) -> Iterator[Charge]:
        """Take what a request costs; raises TenantLimit, having taken nothing, with the time after which it fits."""
        now = self._clock()
        self._forget_idle(now)
        allowance = self._clients.setdefault(client, Allowance(self._requests, self._tokens, now))
        costs = [(bucket, cost) for bucket, cost in ((allowance.requests, 1), (allowance.tokens, tokens)) if bucket]
        waits = {bucket.wait(cost, now): bucket.rate for bucket, cost in costs}
        if seconds := max(waits, default=0.0):
            raise _too_fast(waits[seconds], seconds)
        if streaming and self._max_streams and allowance.num_streams >= self._max_streams:
            raise _too_many_streams(self._max_streams)
        for bucket, cost in costs:
            bucket.take(cost)
        allowance.num_streams += streaming
        try:
            yield Charge(allowance.tokens, tokens)
        finally:
            allowance.num_streams -= streaming

    def _forget_idle(self, now: float) -> None:
        """Look at a few clients in turn, and drop those of whom there is nothing to remember."""
        for _ in range(min(SWEPT, len(self._clients))):
            client, allowance = self._clients.popitem(last=False)
            if not allowance.idle(now):
                self._clients[client] = allowance


def client_of(peer: str) -> str:
    """Whom grpc's name of a peer stands for: its address; of IPv6 the /64 network, which is one customer's."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    if kind == "ipv6":
        address = ipaddress.IPv6Address(host)
        return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return host or peer


def _too_fast(rate: Rate, seconds: float) -> TenantLimit:
    in_milliseconds = math.ceil(seconds * 1000) / 1000
    return TenantLimit(
        f"this client may send {rate.per_second:g} {rate.unit} a second, {rate.burst:g} at once; "
        f"this request fits in {in_milliseconds:g} s.",
        metadata={f"{rate.unit}_per_second": f"{rate.per_second:g}", "burst": f"{rate.burst:g}"},
        retry_after=seconds,
    )


def _too_many_streams(most: int) -> TenantLimit:
    return TenantLimit(
        f"this client has {most} streams open, the limit; another can begin when one of them ends.",
        metadata={"max_streams": str(most)},
    )
