"""
Where the server's settings come from: flags, the environment, a TOML file and defaults, in that order.

`load` reads all sources, checks every value, and reports all that is wrong at once with where it came from.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from stretto.server.quantities import Address
from stretto.server.settings import PREFIX, SETTINGS, Setting, Settings

# Variables of other parts of Stretto, which are no mistakes here.
NOT_OURS = frozenset({"STRETTO_TARGET", "STRETTO_CACHE"})


class ConfigError(Exception):
    """Every mistake of a configuration, each a sentence with where it was made."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class _Written:
    """What somebody wrote for a setting, and where."""

    value: object
    origin: str


def load(flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None) -> Settings:
    """The settings of all sources; raises ConfigError with everything that is wrong with them."""
    problems: list[str] = []
    written = {setting.name: _Written(setting.default, "default") for setting in SETTINGS}
    if file is not None:
        written |= _from_file(file, problems)
    written |= _from_environment(environment, problems)
    written |= {
        setting.name: _Written(flags[setting.name], setting.flag if setting.name != "models" else "command line")
        for setting in SETTINGS
        if flags.get(setting.name) is not None
    }
    values = {setting.name: _read(setting, written[setting.name], problems) for setting in SETTINGS}
    problems += _unpaired(values) + _exposed(values)
    if problems:
        raise ConfigError(problems)
    origins = {name: each.origin for name, each in written.items()}
    return Settings(**values, origins=origins)  # type: ignore[arg-type]  # read one by one above


def described(settings: Settings) -> list[tuple[str, str, str]]:
    """Every setting with its value and where that came from, for --print-config. The values are legal TOML."""
    return [
        (setting.name, _toml(getattr(settings, setting.name)), settings.origins[setting.name]) for setting in SETTINGS
    ]


def _from_file(file: Path, problems: list[str]) -> dict[str, _Written]:
    try:
        text = file.read_text()
        table = tomllib.loads(text)
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}.")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{file}: is not TOML: {error}.")
        return {}
    known = [setting.name for setting in SETTINGS]
    found: dict[str, _Written] = {}
    for key, value in table.items():
        origin = f"{file}:{_line_of(key, text)}"
        if key in known:
            found[key] = _Written(value, origin)
        else:
            problems.append(f"{origin}: there is no setting {key!r}.{_nearest(key, known)}")
    return found


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> dict[str, _Written]:
    known = {setting.variable: setting.name for setting in SETTINGS}
    found: dict[str, _Written] = {}
    for variable, value in environment.items():
        if variable in known:
            found[known[variable]] = _Written(value, variable)
        elif variable.startswith(PREFIX) and variable not in NOT_OURS:
            problems.append(f"{variable}: there is no such setting.{_nearest(variable, [*known])}")
    return found


def _read(setting: Setting, written: _Written, problems: list[str]) -> object:
    try:
        return setting.read(written.value)
    except ValueError as error:
        problems.append(f"{written.origin}: {setting.name} must be {error}; got {written.value!r}.")
        return None


def _unpaired(values: Mapping[str, object]) -> list[str]:
    """Settings that mean nothing without another one."""
    needs = {
        "tls_cert": "tls_key",
        "tls_key": "tls_cert",
        "tls_client_ca": "tls_cert",
        "client_request_burst": "client_request_rate",
        "client_token_burst": "client_token_rate",
    }
    return [
        f"{name} needs {other}, which is not set."
        for name, other in needs.items()
        if values[name] and not values[other]
    ]


def _exposed(values: Mapping[str, object]) -> list[str]:
    """The addresses that others can reach though nobody said that they may."""
    if values["insecure"]:
        return []
    problems: list[str] = []
    grpc, metrics = values["listen"], values["metrics_listen"]
    if isinstance(grpc, Address) and not grpc.is_loopback and not (values["tls_cert"] or values["token_file"]):
        problems.append(
            f"{grpc.host} can be reached from other machines, and neither TLS nor a token is set.\n"
            "Set --tls-cert/--tls-key or --token-file, or say --insecure if you mean it."
        )
    if isinstance(metrics, Address) and not metrics.is_loopback:
        problems.append(
            f"{metrics.host} can be reached from other machines, and --metrics-listen has neither TLS nor tokens.\n"
            "Keep it on 127.0.0.1, or say --insecure if you mean it."
        )
    return problems


def _line_of(key: str, text: str) -> int:
    """The line that sets a top-level key; tomllib does not say."""
    pattern = re.compile(rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""", re.MULTILINE)
    match = pattern.search(text)
    return text.count("\n", 0, match.end()) + 1 if match else 1


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case None:
            return '""'
        case tuple():
            return "[" + ", ".join(_toml(each) for each in cast("tuple[object, ...]", value)) + "]"
        case _:
            # TOML's escapes are JSON's, except that TOML wants one more character escaped.
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
