"""What answers cost and how fast they came, in a line for people."""

from dataclasses import dataclass

DOT = " \u00b7 "


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One answer, as seen from here: times include the network."""

    tokens: int
    seconds: float
    first_token_seconds: float | None
    prompt_tokens: int | None
    cached_tokens: int
    stopped: bool

    def line(self) -> str:
        parts = [_many(self.tokens, "token"), f"{self.seconds:.2f} s"]
        if self.tokens and self.seconds:
            parts.append(f"{self.tokens / self.seconds:.0f} tok/s")
        if self.first_token_seconds is not None:
            parts.append(f"first token {self.first_token_seconds * 1000:.0f} ms")
        if self.prompt_tokens is not None:
            cached = f", {self.cached_tokens} from cache" if self.cached_tokens else ""
            parts.append(f"prompt {_many(self.prompt_tokens, 'token')}{cached}")
        if self.stopped:
            parts.append("stopped")
        return DOT.join(parts)


def total_line(tallies: list[Tally]) -> str:
    tokens, seconds = sum(tally.tokens for tally in tallies), sum(tally.seconds for tally in tallies)
    speed = f"{DOT}{tokens / seconds:.0f} tok/s" if seconds else ""
    return f"{_many(len(tallies), 'answer')}{DOT}{_many(tokens, 'token')}{DOT}{seconds:.2f} s{speed}"


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
