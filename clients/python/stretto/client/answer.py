"""What a stream has told so far: the bookkeeping that both kinds of stream share."""

from collections import deque

from stretto.client.errors import broken
from stretto.client.replies import read_input, read_piece, read_provenance, read_telemetry, read_usage
from stretto.client.results import InputReport, Piece, Provenance, Telemetry, Usage
from stretto.v1 import generation_pb2


class StreamedAnswer:
    """Facts of a stream: `input`, `seed` and `provenance` from its start, `usage` and `telemetry` from its end on."""

    def __init__(self, *, request_id: str, target: str) -> None:
        self.request_id = request_id
        self.target = target
        self.input: InputReport | None = None
        self.seed: int | None = None
        self.provenance: Provenance | None = None
        self.usage: Usage | None = None
        self.telemetry: Telemetry | None = None
        self._waiting: deque[Piece] = deque()
        self._token_counts: dict[int, int] = {}

    def _take(self, event: generation_pb2.GenerateStreamResponse) -> None:
        match event.WhichOneof("event"):
            case "started":
                started = event.started
                self.request_id = started.request_id or self.request_id
                self.input = read_input(started.input)
                self.provenance = read_provenance(started.provenance)
                self.seed = started.seed if started.HasField("seed") else None
            case "delta":
                for delta in event.delta.candidates:
                    self._follow(delta)
                    self._waiting.append(read_piece(delta))
            case "finished":
                self.usage = read_usage(event.finished.usage)
                if event.finished.HasField("telemetry"):
                    self.telemetry = read_telemetry(event.finished.telemetry)
            case _:
                pass  # progress and prompt_scored come only to who asks; kinds newer than this client add nothing here

    def _follow(self, delta: generation_pb2.CandidateDelta) -> None:
        """Refuse a gap or a repeat in a candidate's tokens."""
        seen = self._token_counts.get(delta.index, 0)
        if delta.token_ids and delta.first_token_index != seen:
            raise broken(
                f"the stream jumped to token {delta.first_token_index} of candidate {delta.index} after {seen} tokens.",
                self.request_id,
            )
        self._token_counts[delta.index] = seen + len(delta.token_ids)

    def _check_end(self) -> None:
        """A stream that ends well ends with its usage; without it something was lost."""
        if self.usage is None:
            raise broken("the stream ended without its last message.", self.request_id)
