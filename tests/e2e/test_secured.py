"""The whole server as others reach it: TLS, tokens, and an engine that hangs."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from stretto.server.auth import new_token
from stretto.v1 import common_pb2, embedding_pb2, embedding_pb2_grpc

ASKED = embedding_pb2.EmbedRequest(inputs=[common_pb2.TextInput(text="A man eats food.")])


def test_over_tls_a_token_gets_an_answer_and_is_seen_nowhere(
    start_server: Callable[..., Any], minilm: Path, tmp_path: Path
) -> None:
    cert, key, tokens = (tmp_path / name for name in ("cert.pem", "key.pem", "tokens.txt"))
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    words = ["openssl", "req", "-x509", *curve, *names, "-days", "2", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    token, holder = new_token("alice")
    tokens.write_text(f"{holder}\n")
    flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(tokens), "--log-level", "debug")
    server = start_server(f"embedder={minilm}", *flags)
    with grpc.secure_channel(server.target, grpc.ssl_channel_credentials(cert.read_bytes())) as channel:
        embed = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
        answer = embed(ASKED, metadata=[("authorization", f"Bearer {token}")], timeout=60)
        assert len(answer.results[0].embedding.vectors[0].values) == 384
        with pytest.raises(grpc.RpcError) as caught:
            embed(ASKED, metadata=[("authorization", f"Bearer {token[:-1]}")], timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError):
        embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(ASKED, timeout=60)
    command = Path(f"/proc/{server.process.pid}/cmdline").read_text()
    assert server.stop() == 0
    assert server.other_lines == []  # nor does grpc write a line of its own for who speaks no TLS
    told = f"{server.log} {server.other_lines} {command}"
    assert "'client': 'alice'" in told
    assert "'encrypted': True" in told
    assert token not in told


def test_an_engine_that_hangs_is_replaced_and_says_why(
    start_server: Callable[..., Any], minilm: Path, eventually: Callable[..., None]
) -> None:
    server = start_server(f"embedder={minilm}", "--hang-seconds", "2")
    hung = server.engine()
    os.kill(hung, signal.SIGSTOP)
    eventually(lambda: server.status("/readyz") == 503, 20)
    eventually(lambda: server.status("/readyz") == 200, 60)
    assert server.engine() != hung
    with grpc.insecure_channel(server.target) as channel:
        answer = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(ASKED, timeout=60)
        assert len(answer.results[0].embedding.vectors[0].values) == 384
    assert any("hung: it said nothing for 2.5 s" in str(entry) for entry in server.log)
