"""Proves TLS with certificates made here: who may connect, and every way in which the files can be wrong."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from stretto.cli.startup import serving_lines
from stretto.server.announcements import Listening
from stretto.server.auth import new_token
from stretto.server.config import ConfigError, load
from stretto.server.credentials import read_credentials
from stretto.server.quantities import Address
from stretto.v1 import generation_pb2 as pb
from stretto.v1.generation_pb2_grpc import GenerationServiceStub


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class Authority:
    """Somebody who signs certificates, with a key pair of its own."""

    folder: Path
    name: str

    @property
    def cert(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def found(self) -> "Authority":
        key = self.folder / f"{self.name}.key"
        openssl(*NEW, "-keyout", key, "-out", self.cert, "-subj", f"/CN={self.name}", "-x509", "-days", "2")
        return self

    def sign(self, name: str) -> tuple[Path, Path]:
        """The certificate and the key of a name that is `localhost` and 127.0.0.1 to whoever asks."""
        cert, key, ask = (self.folder / f"{self.name}-{name}.{ending}" for ending in ("pem", "key", "csr"))
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        openssl(*NEW, "-keyout", key, "-out", ask, "-subj", f"/CN={name}", "-addext", names)
        signer = ("-CA", self.cert, "-CAkey", self.folder / f"{self.name}.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", ask, *signer, "-days", "2", "-copy_extensions", "copy", "-out", cert)
        return cert, key


NEW = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "ours").found()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "theirs").found()


@pytest.fixture(scope="module")
def pair(ours):
    return ours.sign("server")


def flags(pair, **more):
    return {"tls_cert": str(pair[0]), "tls_key": str(pair[1])} | {name: str(value) for name, value in more.items()}


def trusting(authority, pair=None):
    chain, key = (pair[0].read_bytes(), pair[1].read_bytes()) if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.cert.read_bytes(), key, chain)


async def said(target, credentials, metadata=()):
    """What the server answers on a connection of its own."""
    open_channel = grpc.aio.secure_channel if credentials else grpc.aio.insecure_channel
    async with open_channel(target, *([credentials] if credentials else [])) as channel:
        stub = GenerationServiceStub(channel)
        answer = await stub.Generate(pb.GenerateRequest(text="a"), timeout=20, metadata=metadata)
        return answer.candidates[0].text


async def refused(target, credentials):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await said(target, credentials)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_trusts_the_right_authority_is_answered_and_nobody_else(serve, pair, ours, theirs):
    async with serve(**flags(pair)) as running:
        assert await said(running.target, trusting(ours)) == " 0 1 2 3 4"
        assert await refused(running.target, trusting(theirs))
        assert await refused(running.target, None)


async def test_with_an_authority_for_clients_only_its_certificates_get_in(serve, pair, ours, theirs):
    async with serve(**flags(pair, tls_client_ca=theirs.cert)) as running:
        assert await said(running.target, trusting(ours, theirs.sign("client"))) == " 0 1 2 3 4"
        assert await refused(running.target, trusting(ours))
        assert await refused(running.target, trusting(ours, ours.sign("client")))


async def test_a_token_is_asked_for_inside_tls_too(serve, pair, ours, tmp_path):
    token, holder = new_token("alice")
    (tmp_path / "tokens").write_text(f"{holder}\n")
    async with serve(**flags(pair, token_file=tmp_path / "tokens")) as running:
        sent = (("authorization", f"Bearer {token}"),)
        assert await said(running.target, trusting(ours), sent) == " 0 1 2 3 4"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await said(running.target, trusting(ours))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("secured", [True, False])
async def test_what_is_announced_is_what_is_so(serve, pair, secured):
    async with serve(**(flags(pair) if secured else {})) as running:
        assert running.announced[0].encrypted is secured


@pytest.mark.parametrize(
    ("host", "encrypted", "asks", "line", "warned"),
    [
        ("127.0.0.1", False, False, "(plain text, this machine only)", False),
        ("127.0.0.1", True, True, "(TLS, this machine only, asks for a token)", False),
        ("0.0.0.0", True, False, "(TLS, other machines can reach it)", False),
        ("0.0.0.0", False, True, "(plain text, other machines can reach it, asks for a token)", True),
    ],
)
def test_the_start_up_screen_says_who_can_read_along(host, encrypted, asks, line, warned):
    metrics = Address("127.0.0.1", 9464)
    listening = Listening(grpc=Address(host, 1), metrics=metrics, encrypted=encrypted, asks_for_token=asks)
    told = "\n".join(serving_lines(listening, [], 30))
    assert line in told
    assert ("can be read on their way" in told) is warned


def test_the_screen_tells_what_a_command_needs_to_be_let_in(running):
    there = Address("127.0.0.1", 50051)
    secured = Listening(grpc=there, metrics=there, encrypted=True, asks_for_token=True)
    told = "\n".join(serving_lines(secured, running.engine.cards(), 30))
    assert " chat --tls-ca CERT.pem --token-file TOKEN.txt" in told
    plain = Listening(grpc=there, metrics=there, encrypted=False, asks_for_token=False)
    assert "CERT.pem" not in "\n".join(serving_lines(plain, running.engine.cards(), 30))


def problems(given):
    with pytest.raises(ConfigError) as caught:
        read_credentials(load(given, {}, None))
    return caught.value.problems


def test_one_file_without_the_other_is_refused(pair):
    cert, key = map(str, pair)
    assert problems({"tls_cert": cert}) == ["tls_cert needs tls_key, which is not set."]
    assert problems({"tls_key": key}) == ["tls_key needs tls_cert, which is not set."]
    assert problems({"tls_client_ca": cert}) == ["tls_client_ca needs tls_cert, which is not set."]


def test_a_key_that_is_not_the_certificates_is_refused(pair, ours):
    _, other = ours.sign("other")
    assert problems(flags((pair[0], other))) == [f"{other}: tls_key is not the key of the certificate in {pair[0]}."]


def test_files_that_are_not_there_are_all_named(tmp_path):
    found = problems(flags((tmp_path / "a", tmp_path / "b"), tls_client_ca=tmp_path / "c", token_file=tmp_path / "d"))
    names = [tmp_path / name for name in "abcd"]
    assert found == [f"{name}: cannot be read: No such file or directory." for name in names]


def test_files_that_are_something_else_are_refused_by_what_they_should_be(pair, tmp_path):
    cert, key = pair
    junk = tmp_path / "junk"
    junk.write_text("hello")
    assert "tls_cert must be a certificate in PEM" in problems(flags((junk, key)))[0]
    assert "tls_cert must be a certificate in PEM" in problems(flags((key, cert)))[0]
    assert "tls_key must be a private key in PEM" in problems(flags((cert, junk)))[0]
    assert "tls_key must be a private key in PEM" in problems(flags((cert, cert)))[0]
    assert "tls_client_ca must be one or more certificates" in problems(flags(pair, tls_client_ca=junk))[0]


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(pair, tmp_path):
    locked = tmp_path / "locked.key"
    openssl("pkcs8", "-topk8", "-in", pair[1], "-out", locked, "-passout", "pass:secret")
    assert problems(flags((pair[0], locked))) == [
        f"{locked}: tls_key is encrypted; stretto needs one that is not, readable by nobody else."
    ]
