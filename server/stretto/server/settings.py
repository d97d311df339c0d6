"""
What the server can be told: one frozen object, and the list of what can be set, on which all else is based.

Every reader takes text (a flag, a variable) or TOML's own value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stretto.engine.config import Limits
from stretto.server.quantities import (
    Address,
    read_address,
    read_choice,
    read_device,
    read_file,
    read_integer,
    read_names,
    read_number,
    read_size,
    read_switch,
)

PREFIX = "STRETTO_"
DEFAULT_MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server was told. `origins` says for each setting where its value came from."""

    models: tuple[str, ...]
    listen: Address
    metrics_listen: Address
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    device: str
    quantize: str
    cache_memory: int
    threads: int
    step_budget_ms: float
    max_sequences: int
    max_queue_requests: int
    max_queue_tokens: int
    max_inputs: int
    max_request_bytes: int
    max_response_bytes: int
    grace_seconds: float
    stall_seconds: float
    hang_seconds: float
    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    token_file: Path | None
    client_request_rate: float
    client_request_burst: int
    client_token_rate: float
    client_token_burst: int
    client_streams: int
    log_format: str
    log_level: str
    log_prompts: bool
    reflection: str
    insecure: bool
    origins: Mapping[str, str]

    @property
    def reflects(self) -> bool:
        """Reflection is on where only this machine can ask, unless it was said."""
        return self.reflection == "on" or (self.reflection == "auto" and self.listen.is_loopback)

    def limits(self) -> Limits:
        return Limits(
            max_sequences=self.max_sequences,
            step_budget_seconds=self.step_budget_ms / 1000,
            max_queue_requests=self.max_queue_requests,
            max_queue_tokens=self.max_queue_tokens,
            max_inputs=self.max_inputs,
            threads=self.threads,
            hang_seconds=self.hang_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that can be set. `read` turns what was written into its value; its ValueError says what it takes."""

    name: str
    read: Callable[[object], object]
    default: object
    help: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="models",
        read=read_names,
        default=" ".join(DEFAULT_MODELS),
        help="models to serve: [name=]SOURCE[@revision], several separated by spaces",
    ),
    Setting(name="listen", read=read_address, default="127.0.0.1:50051", help="gRPC address, host:port"),
    Setting(
        name="metrics_listen",
        read=read_address,
        default="127.0.0.1:9464",
        help="address of /metrics, /healthz and /readyz, host:port",
    ),
    Setting(
        name="dtype",
        read=read_choice("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="type of the weights in memory: auto, float32, bfloat16, float16",
    ),
    Setting(name="device", read=read_device, default="auto", help="auto, cpu, cuda or cuda:N"),
    Setting(
        name="quantize",
        read=read_choice("none"),
        default="none",
        help="none (the only one so far)",
    ),
    Setting(
        name="cache_memory",
        read=read_size(0),
        default="0",
        help="bytes of KV cache for each model that generates, as 450MB or 2GiB; 0: the engine chooses",
    ),
    Setting(name="threads", read=read_integer(0, 1024), default="0", help="threads of the engine; 0: all cores"),
    Setting(
        name="step_budget_ms",
        read=read_number(1, 10_000),
        default="100",
        help="how long prompts and texts may hold up those who wait for their next token",
    ),
    Setting(name="max_sequences", read=read_integer(1, 256), default="64", help="candidates that decode at a time"),
    Setting(
        name="max_queue_requests",
        read=read_integer(1, 1_000_000),
        default="512",
        help="requests that may wait; more are refused",
    ),
    Setting(
        name="max_queue_tokens",
        read=read_integer(1, 1_000_000_000),
        default="1000000",
        help="tokens that may wait; more are refused",
    ),
    Setting(
        name="max_inputs",
        read=read_integer(1, 1_000_000),
        default="2048",
        help="inputs of one request: texts, or continuations to score",
    ),
    Setting(name="max_request_bytes", read=read_size(1024), default="4MiB", help="largest request message"),
    Setting(name="max_response_bytes", read=read_size(8192), default="16MiB", help="largest reply message"),
    Setting(
        name="grace_seconds",
        read=read_number(0, 86_400),
        default="30",
        help="how long running requests may take to finish when the server stops",
    ),
    Setting(
        name="stall_seconds",
        read=read_number(0.01, 86_400),
        default="30",
        help="how long a stream may go unread before it is ended",
    ),
    Setting(
        name="hang_seconds",
        read=read_number(0, 86_400),
        default="60",
        help="how long the engine may say nothing before it is killed and started again; longer where its steps "
        "are long; 0: any time",
    ),
    Setting(name="tls_cert", read=read_file, default="", help="certificate for TLS, a PEM file with its chain"),
    Setting(name="tls_key", read=read_file, default="", help="the certificate's private key, a PEM file"),
    Setting(
        name="tls_client_ca",
        read=read_file,
        default="",
        help="certificates, a PEM file, of whoever signs those of clients; without one of these no client gets in",
    ),
    Setting(
        name="token_file",
        read=read_file,
        default="",
        help="who may call: a file of lines NAME sha256:HEX, as `stretto token NAME` prints them",
    ),
    Setting(
        name="client_request_rate",
        read=read_number(0, 1_000_000),
        default="0",
        help="requests a second of one client (a token's name, else an address); 0: any number",
    ),
    Setting(
        name="client_request_burst",
        read=read_integer(0, 1_000_000),
        default="0",
        help="requests that one client may send at once; 0: those of a second",
    ),
    Setting(
        name="client_token_rate",
        read=read_number(0, 1_000_000_000),
        default="0",
        help="prompt and input tokens a second of one client, taken as one a byte until they are counted; 0: any",
    ),
    Setting(
        name="client_token_burst",
        read=read_integer(0, 1_000_000_000),
        default="0",
        help="tokens that one client may send at once; 0: those of a second",
    ),
    Setting(
        name="client_streams",
        read=read_integer(0, 1_000_000),
        default="0",
        help="streams that one client may have open; 0: any number",
    ),
    Setting(name="log_format", read=read_choice("human", "json"), default="human", help="human or json"),
    Setting(
        name="log_level",
        read=read_choice("debug", "info", "warning", "error"),
        default="info",
        help="debug, info, warning or error; info has one line a request",
    ),
    Setting(
        name="log_prompts", read=read_switch, default="false", help="writes what people send into the log, every word"
    ),
    Setting(
        name="reflection",
        read=read_choice("auto", "on", "off"),
        default="auto",
        help="gRPC reflection: on, off, or auto (on where only this machine can ask)",
    ),
    Setting(
        name="insecure",
        read=read_switch,
        default="false",
        help="allow addresses that other machines can reach without TLS or tokens, for gRPC and for metrics",
    ),
)
