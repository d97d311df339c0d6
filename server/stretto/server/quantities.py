"""Readers of single settings: addresses, sizes, numbers, choices. Each raises ValueError saying what it takes."""

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

UNITS = {
    "": 1,
    "B": 1,
    "kB": 1000,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes one that is free."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(value: object) -> Address:
    takes = "host:port, as 127.0.0.1:50051 or [::1]:50051"
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]\s]+)):(\d{1,5})", value) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65535:
        raise ValueError(takes)
    return Address(match[1] or match[2], int(match[3]))


def read_names(value: object) -> tuple[str, ...]:
    """Text separated by spaces, or a list of texts."""
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(each, str) and each for each in names):
        raise ValueError("a list of one or more names")
    return tuple(names)


def read_file(value: object) -> Path | None:
    """The name of a file; empty: none."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("the name of a file")
    return Path(value) if value else None


def read_size(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        takes = f"a size of at least {least} bytes, as 1048576, 450MB or 2GiB"
        if isinstance(value, int) and not isinstance(value, bool):
            size = value
        else:
            match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value) if isinstance(value, str) else None
            if match is None or match[2] not in UNITS:
                raise ValueError(takes)
            size = int(float(match[1]) * UNITS[match[2]]) if "." in match[1] else int(match[1]) * UNITS[match[2]]
        if size < least:
            raise ValueError(takes)
        return size

    return read


def read_integer(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        takes = f"a whole number from {least} to {most}"
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(takes)
        if isinstance(value, str) and not re.fullmatch(r"-?\d{1,18}", value):
            raise ValueError(takes)
        if not least <= int(value) <= most:
            raise ValueError(takes)
        return int(value)

    return read


def read_number(least: float, most: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        takes = f"a number from {least:g} to {most:g}"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(takes)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:  # NaN is in no range
            raise ValueError(takes)
        return number

    return read


def read_choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("one of " + ", ".join(choices) if len(choices) > 1 else f"{choices[0]} in this version")
        return value

    return read


def read_device(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise ValueError("auto, cpu, cuda or cuda:N")
    return value


def read_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise ValueError("true or false")
