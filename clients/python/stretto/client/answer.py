"""What a stream has told so far, and how it goes on after it broke: the bookkeeping that both kinds of stream share."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from stretto.client.errors import Cancelled, ModelNotReady, StrettoError, Unavailable, broken
from stretto.client.replies import (
    read_input,
    read_logprobs,
    read_piece,
    read_progress,
    read_provenance,
    read_telemetry,
    read_usage,
)
from stretto.client.results import InputReport, Piece, PositionLogprobs, Progress, Provenance, Telemetry, Usage
from stretto.v1 import generation_pb2

LOGGER = logging.getLogger("stretto.client")
# Seconds before each attempt to resume: together what a server takes to start again. One that says how long to wait is
# believed where that is longer.
DELAYS = (0.1, 0.5, 2.0, 4.0)


class StreamedAnswer:
    """Facts of a stream: `input`, `seed` and `provenance` from its start, `prompt_logprobs` (where asked for) before
    the first piece, `usage` and `telemetry` from its end on; `resumed` counts how often it broke and went on.
    """

    def __init__(
        self,
        request: generation_pb2.GenerateStreamRequest,
        options: Mapping[str, Any],
        *,
        seconds: float,
        target: str,
    ) -> None:
        self.request_id = request.request.options.request_id
        self.target = target
        self.input: InputReport | None = None
        self.seed: int | None = None
        self.provenance: Provenance | None = None
        self.prompt_logprobs: tuple[PositionLogprobs, ...] = ()
        self.usage: Usage | None = None
        self.telemetry: Telemetry | None = None
        self.resumed = 0
        self._request = request
        self._end = time.monotonic() + seconds
        self._resume: bool = options.get("resume", True)
        self._on_progress: Callable[[Progress], object] | None = options.get("on_progress")
        self._waiting: deque[Piece] = deque()
        self._token_ids: dict[int, list[int]] = {}
        self._finished: set[int] = set()

    @property
    def _seconds_left(self) -> float:
        return max(self._end - time.monotonic(), 0.0)

    def _take(self, event: generation_pb2.GenerateStreamResponse) -> None:
        match event.WhichOneof("event"):
            case "started":
                started = event.started
                self.request_id = started.request_id or self.request_id
                self.input = read_input(started.input)
                self.provenance = read_provenance(started.provenance)
                self.seed = started.seed if started.HasField("seed") else None
            case "progress":
                if self._on_progress is not None:
                    self._on_progress(read_progress(event.progress))
            case "prompt_scored":
                self.prompt_logprobs = tuple(read_logprobs(position) for position in event.prompt_scored.logprobs)
            case "delta":
                for delta in event.delta.candidates:
                    self._take_delta(delta)
            case "finished":
                self.usage = read_usage(event.finished.usage)
                if event.finished.HasField("telemetry"):
                    self.telemetry = read_telemetry(event.finished.telemetry)
            case _:
                pass  # a kind newer than this client adds nothing here

    def _take_delta(self, delta: generation_pb2.CandidateDelta) -> None:
        if self.resumed and delta.index in self._finished:
            return  # the server ends again what ended before the break
        self._follow(delta)
        if delta.finish_reason:
            self._finished.add(delta.index)
        self._waiting.append(read_piece(delta))

    def _follow(self, delta: generation_pb2.CandidateDelta) -> None:
        """Refuse a gap or a repeat in a candidate's tokens."""
        seen = self._token_ids.setdefault(delta.index, [])
        if delta.token_ids and delta.first_token_index != len(seen):
            raise broken(
                f"the stream jumped to token {delta.first_token_index} of candidate {delta.index} after {len(seen)} "
                "tokens.",
                self.request_id,
            )
        seen.extend(delta.token_ids)

    def _check_end(self) -> None:
        """A stream that ends well ends with its usage; without it something was lost."""
        if self.usage is None:
            raise broken("the stream ended without its last message.", self.request_id)

    @property
    def _num_candidates(self) -> int:
        return self._request.request.config.sampling.candidate_count or 1

    @property
    def _tells_all(self) -> bool:
        """What came says where every candidate stands: not of `best_of`, nor where one lacks its echoed prompt yet."""
        config = self._request.request.config
        whole = len(self._token_ids) == self._num_candidates or not config.output.echo
        return not self._token_ids or (whole and not config.sampling.HasField("best_of"))

    def _delay(self, error: StrettoError) -> float:
        """Seconds to wait before the stream is resumed; raises the error where it is not."""
        if self._is_back(error):
            return self._in_time(error.retry_after or 0, error)
        if not (self._resume and self._can_go_on(error) and self.resumed < len(DELAYS)):
            raise error
        delay = self._in_time(max(DELAYS[self.resumed], error.retry_after or 0), error)
        self.resumed += 1
        LOGGER.warning(
            "request %s broke after %d tokens (%s: %s); resuming it, attempt %d of %d",
            self.request_id,
            sum(map(len, self._token_ids.values())),
            error.reason,
            error.message,
            self.resumed,
            len(DELAYS),
        )
        return delay

    def _in_time(self, delay: float, error: StrettoError) -> float:
        if delay >= self._seconds_left:
            raise error
        return delay

    def _is_back(self, error: StrettoError) -> bool:
        """The server that this stream broke with has started again and loads the model: no further attempt, a wait."""
        return self.resumed > 0 and isinstance(error, ModelNotReady) and error.retry_after is not None

    def _can_go_on(self, error: StrettoError) -> bool:
        """Before the start grpc itself has tried again, but for a connection that broke after the headers."""
        if self.input is None and not self.resumed:
            return error.reason == "CONNECTION_LOST"
        return isinstance(error, Unavailable | Cancelled) and self._tells_all

    def _continued(self) -> generation_pb2.GenerateStreamRequest:
        """The request for what is missing: the same draws of the same checkpoint, after the ids that came."""
        made = generation_pb2.GenerateStreamRequest()
        made.CopyFrom(self._request)
        request = made.request
        if self.seed is not None:
            request.config.sampling.seed = self.seed
        if self.provenance is not None and self.provenance.model_version:
            request.expected_model_version = self.provenance.model_version
        if self._token_ids:
            echoed = self.input.token_count if self.input is not None and request.config.output.echo else 0
            for index in range(self._num_candidates):
                request.resume_after.add(ids=self._token_ids.get(index, [])[echoed:])
        if self.prompt_logprobs:
            request.config.output.include_prompt_logprobs = False
        request.options.timeout.FromNanoseconds(int(self._seconds_left * 1e9))
        return made
