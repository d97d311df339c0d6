"""Proves that whoever gets no connection is told why: no such name, TLS on one end only, a wrong certificate."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from stretto.client import Client, InvalidRequest, Unavailable

NEW = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-x509", "-days", "2")


def certify(folder: Path, name: str, holder: str) -> None:
    """A certificate that signs itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = (*NEW, "-keyout", key, "-out", cert, "-subj", f"/CN={name}", "-addext", f"subjectAltName={holder}")
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder, "here", "IP:127.0.0.1")
    certify(folder, "elsewhere", "DNS:elsewhere")
    return folder


@pytest.fixture(scope="module")
def encrypted(folder: Path) -> Iterator[dict[str, str]]:
    """Two servers without services that speak TLS, at one address: the certificate of one is for it."""
    server = grpc.server(ThreadPoolExecutor(1))
    ports = {}
    for name in ("here", "elsewhere"):
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
        ports[name] = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    yield ports
    server.stop(None)


def refused(target: str, **options: Path) -> Unavailable:
    with Client(target, **options) as client, pytest.raises(Unavailable) as caught:
        client.models()
    return caught.value


def test_a_certificate_of_an_unknown_authority_is_not_trusted(encrypted: dict[str, str], folder: Path) -> None:
    error = refused(encrypted["here"], root_certificates=folder / "elsewhere.pem")
    assert error.reason == "UNTRUSTED"
    assert error.message == f"{error.target} shows a certificate that none of the trusted authorities has signed."


def test_a_certificate_for_another_name_is_not_trusted(encrypted: dict[str, str], folder: Path) -> None:
    error = refused(encrypted["elsewhere"], root_certificates=folder / "elsewhere.pem")
    assert error.reason == "UNTRUSTED"
    assert error.message == f"{error.target} shows a certificate that is for another name."


def test_plain_text_to_a_server_that_speaks_tls_is_told(encrypted: dict[str, str]) -> None:
    assert refused(encrypted["here"]).reason == "HUNG_UP"


def test_tls_to_a_server_that_speaks_plain_text_is_told(server, folder: Path) -> None:
    error = refused(server.target, root_certificates=folder / "here.pem")
    assert error.reason == "NOT_ENCRYPTED"
    assert error.message == f"{server.target} does not speak TLS, and this client does."


def test_a_name_without_an_address_is_told() -> None:
    error = refused("nobody.invalid:1")
    assert error.reason == "UNKNOWN_HOST"
    assert error.message.startswith("nobody.invalid:1 has no address (")


@pytest.mark.parametrize("file", ["here.key", "empty"])
def test_a_file_without_certificates_is_refused_before_any_call(folder: Path, file: str) -> None:
    (folder / "empty").touch()
    with pytest.raises(InvalidRequest, match=f"must be a file of certificates in PEM; .*{file} is none"):
        Client("localhost:1", root_certificates=str(folder / file))


def test_the_command_line_says_what_to_do(stretto, encrypted: dict[str, str], folder: Path) -> None:
    wrong = stretto("models", "--target", encrypted["here"], "--tls-ca", str(folder / "elsewhere.pem"))
    assert wrong.returncode == 1, wrong.stderr
    assert wrong.stderr.splitlines()[1:] == ["       Name the authority that signed it:  --tls-ca FILE"]
    plain = stretto("models", "--target", encrypted["here"])
    assert plain.stderr.splitlines()[1:] == ["       If it speaks TLS:  --tls-ca FILE, or --tls"]


def test_a_token_file_that_is_not_text_is_refused(stretto, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    ran = stretto("models", "--token-file", str(tmp_path / "token"))
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (
        1,
        f"error: {tmp_path / 'token'} is not UTF-8: byte 0 is 0xff.",
    )


def test_a_client_shows_whom_it_talks_to_and_no_token() -> None:
    with Client("localhost:1", token="secret") as client:
        assert repr(client) == "Client('localhost:1')"


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        ("UNAUTHENTICATED:UNAUTHENTICATED", "--token-file"),
        ("INVALID_ARGUMENT:INPUT_TOO_LONG", "--truncate"),
        ("NOT_FOUND:MODEL_NOT_FOUND", "--model"),
        ("DEADLINE_EXCEEDED:", "--timeout"),
    ],
)
def test_the_command_line_names_the_option_that_helps(stretto, failure: str, advice: str) -> None:
    ran = stretto("generate", f"fail:{failure}")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert advice in ran.stderr.splitlines()[1]
