"""What a command raises when it cannot go on: one sentence, then what to do, and the exit code."""

USED_WRONGLY = 2


class CommandFailed(Exception):
    """`message` names the thing, the value and the limit; `advice` says what to do and may be empty."""

    def __init__(self, message: str, advice: str = "", *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.exit_code = exit_code


def used_wrongly(message: str, advice: str = "") -> CommandFailed:
    """A mistake on the command line: exit code 2."""
    return CommandFailed(message, advice, exit_code=USED_WRONGLY)
