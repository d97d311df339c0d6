"""What the server proves itself with (TLS) and what it asks of callers (certificates, tokens), out of the files."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from stretto.server.auth import Tokens, read_tokens
from stretto.server.config import ConfigError
from stretto.server.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """None is plain text, or everybody."""

    tls: grpc.ServerCredentials | None
    tokens: Tokens | None


class _PassphraseWanted(Exception):
    """A private key is encrypted; there is nobody to ask."""


def read_credentials(settings: Settings) -> Credentials:
    """Read and check every file that the settings name; raises ConfigError with all that is wrong."""
    problems: list[str] = []
    tls: grpc.ServerCredentials | None = None
    tokens: Tokens | None = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            tls = _read_tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        except ConfigError as error:
            problems += error.problems
    if settings.token_file is not None:
        try:
            tokens = read_tokens(settings.token_file)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Credentials(tls=tls, tokens=tokens)


def _read_tls(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """What grpc needs; grpc itself would take anything, and then say nothing of what is wrong with it."""
    problems: list[str] = []
    files = {path: _read(path, problems) for path in (cert, key, client_ca) if path is not None}
    if not problems:
        problems += _pair_problems(cert, key)
        if client_ca is not None:
            problems += _authority_problems(client_ca)
    if problems:
        raise ConfigError(problems)
    return grpc.ssl_server_credentials(
        [(files[key], files[cert])],
        root_certificates=None if client_ca is None else files[client_ca],
        require_client_auth=client_ca is not None,
    )


def _read(path: Path, problems: list[str]) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}.")
        return b""


def _pair_problems(cert: Path, key: Path) -> list[str]:
    """What is wrong with a certificate and its key, by trying them with OpenSSL."""

    def passphrase() -> str:
        raise _PassphraseWanted

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cert)
    except ssl.SSLError:
        return [f"{cert}: tls_cert must be a certificate in PEM, with its chain after it."]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, passphrase)
    except _PassphraseWanted:
        return [f"{key}: tls_key is encrypted; stretto needs one that is not, readable by nobody else."]
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return [f"{key}: tls_key is not the key of the certificate in {cert}."]
        return [f"{key}: tls_key must be a private key in PEM."]
    return []


def _authority_problems(client_ca: Path) -> list[str]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_ca)
    except ssl.SSLError:
        return [f"{client_ca}: tls_client_ca must be one or more certificates in PEM."]
    return []
