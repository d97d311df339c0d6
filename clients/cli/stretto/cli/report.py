"""How an error looks on a terminal, whichever room it comes from; standard library alone."""

import os
import sys
from typing import TextIO

from stretto.cli.failure import CommandFailed

INDENT = " " * len("error: ")
NO_CONNECTION = {
    "UNKNOWN_HOST": "Check --target, or STRETTO_TARGET.",
    "UNTRUSTED": "Name the authority that signed it:  --tls-ca FILE",
    "NOT_ENCRYPTED": "Leave out --tls and --tls-ca, or start the server with --tls-cert and --tls-key.",
    "HUNG_UP": "If it speaks TLS:  --tls-ca FILE, or --tls",
}
ADVICE = {
    "UNAUTHENTICATED": "A file that holds nothing but the token:  --token-file FILE",
    "INPUT_TOO_LONG": "Such a policy is an option here:  --truncate",
    "MODEL_NOT_FOUND": "--model NAME names one; stretto models lists them.",
    "DEADLINE": "--timeout SECONDS waits longer.",
}
RESUMED = "the connection broke on the way; the answer was resumed where it stood."


def described(error: Exception) -> str:
    """One sentence, then what to do; rooms that were never imported cannot have raised."""
    if isinstance(error, CommandFailed):
        return _joined(error.message, error.advice)
    if (client := sys.modules.get("stretto.client")) and isinstance(error, client.StrettoError):
        return _of_the_client(error)
    if (engine := sys.modules.get("stretto.engine.errors")) and isinstance(error, engine.StrettoError):
        return _joined(str(error), "")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'standard output'}: {error.strerror}."
    return _joined(
        f"stretto failed, and should not have: {type(error).__name__}: {error}",
        "Run it again with --debug for the traceback, and report that.",
    )


def show_error(error: Exception, stream: TextIO) -> None:
    word = "\x1b[1;31merror:\x1b[0m" if colored(stream) else "error:"
    lines = described(error).splitlines() or [""]
    print(f"{word} {lines[0]}", *(INDENT + line.lstrip() for line in lines[1:]), sep="\n", file=stream)


def note(text: str) -> None:
    """What a person should know of a result; never among the results."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def colored(stream: TextIO) -> bool:
    """Colour only for a terminal whose owner has not set NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _of_the_client(error: Exception) -> str:
    from stretto.client import StrettoError

    assert isinstance(error, StrettoError)
    if not error.target:
        return error.message
    if error.reason == "UNREACHABLE":
        return f"{error.message}  Start a server:  stretto serve"
    if error.reason in NO_CONNECTION:
        return _joined(error.message, NO_CONNECTION[error.reason])
    request = f", request {error.request_id}" if error.request_id else ""
    wait = "" if error.retry_after is None else f"Try again in {error.retry_after:g} s."
    advice = ADVICE.get(error.reason, "")
    notes = getattr(error, "__notes__", [])
    return "\n".join(
        line
        for line in (error.message, advice, wait, *notes, f"({error.code.name} from {error.target}{request})")
        if line
    )


def _joined(message: str, advice: str) -> str:
    return f"{message}\n{advice}" if advice else message
