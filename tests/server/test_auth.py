"""Proves who gets in: tokens by their hashes, every method of every service, and no word of a token anywhere."""

import argparse
import hashlib
import json

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stretto.cli import token as command
from stretto.cli.failure import CommandFailed
from stretto.server.auth import Tokens, new_token, read_tokens
from stretto.server.config import ConfigError
from stretto.server.errors import Unauthenticated
from stretto.v1 import generation_pb2 as pb

ALICE, BOB = "alice-canary-5e1f", "bob-canary-77aa"
HEALTH = "/grpc.health.v1.Health/"


def line(name, token):
    return f"{name} sha256:{hashlib.sha256(token.encode()).hexdigest()}"


@pytest.fixture
def written(tmp_path):
    def write(*lines):
        path = tmp_path / "tokens.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def file(written):
    return written("# who may call", "", line("alice", ALICE), line("bob", BOB))


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


async def failed(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def methods(server):
    """Every method that the server has, by its path, out of grpc's own list of handlers."""
    return [path for handlers in server._grpc._server_handlers for path in handlers]


REGISTERED = [
    "/stretto.v1.GenerationService/Generate",
    "/stretto.v1.EmbeddingService/Embed",
    "/stretto.v1.ModelService/ListModels",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
