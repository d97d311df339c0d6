"""
Bearer tokens: a file of names with the hashes of their tokens, and who it is that presents one.

A line is `NAME sha256:HEX`; empty lines and lines that begin with # are skipped. The file never holds a token itself,
so that reading it opens no door. A token is 256 random bits: one plain hash of it cannot be guessed back.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stretto.server.config import ConfigError
from stretto.server.errors import Unauthenticated

SCHEME = "bearer"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
TAKES = "`NAME sha256:HEX` with 64 lower-case hex digits, as `stretto token NAME` prints it"
SEND = "Send the metadata  authorization: Bearer TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whom a token was given to, and the hash that it has."""

    name: str
    digest: bytes

    def __str__(self) -> str:
        """The line of the file."""
        return f"{self.name} sha256:{self.digest.hex()}"


class Tokens:
    """Everybody who has a token."""

    def __init__(self, holders: Sequence[Holder]) -> None:
        self._holders = holders

    def name_of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Who sends this metadata; raises Unauthenticated, which never says what was sent."""
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1:
            count = f"{len(values)} of them" if values else "none"
            raise Unauthenticated(f"this server asks for one bearer token; the call has {count}. {SEND}")
        value = values[0].encode() if isinstance(values[0], str) else values[0]
        scheme, _, token = value.partition(b" ")
        if scheme.lower() != SCHEME.encode() or not token:
            raise Unauthenticated(f"the call's authorization is not a bearer token. {SEND}")
        # Every entry is compared, in constant time: how long this takes says nothing of any of them.
        digest = hashlib.sha256(token).digest()
        found = [holder.name for holder in self._holders if hmac.compare_digest(holder.digest, digest)]
        if not found:
            raise Unauthenticated(f"the call's bearer token is none that this server knows. {SEND}")
        return found[0]


def new_token(name: str) -> tuple[str, Holder]:
    """A fresh token and its holder; raises ValueError for a name that no line could have."""
    if not NAME.fullmatch(name):
        raise ValueError("1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit")
    token = secrets.token_urlsafe(32)
    return token, Holder(name=name, digest=hashlib.sha256(token.encode()).digest())


def read_tokens(path: Path) -> Tokens:
    """The holders that a file names; raises ConfigError with every mistake in it, and quotes nothing of it."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}."]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not text in UTF-8."]) from None
    problems: list[str] = []
    lines: dict[Holder, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        holder = _read(line)
        problem = f"is not {TAKES}" if holder is None else _taken(holder, lines)
        if problem:
            problems.append(f"{path}:{number}: {problem}.")
        elif holder is not None:
            lines[holder] = number
    if not lines and not problems:
        problems.append(f"{path}: names nobody, so nobody could call. A line is {TAKES}.")
    if problems:
        raise ConfigError(problems)
    return Tokens([*lines])


def _read(line: str) -> Holder | None:
    match line.split():
        case [name, written] if NAME.fullmatch(name) and (digest := DIGEST.fullmatch(written)):
            return Holder(name=name, digest=bytes.fromhex(digest[1]))
    return None


def _taken(holder: Holder, lines: dict[Holder, int]) -> str:
    """What of a holder another line has already, in words; empty if nothing."""
    for other, number in lines.items():
        if other.name == holder.name:
            return f"has the name of line {number}"
        if other.digest == holder.digest:
            return f"has the hash of line {number}"
    return ""
