"""The calls of the wire format that the clients make: path and types, the same for both kinds of channel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from stretto.v1 import embedding_pb2, generation_pb2, model_pb2, server_pb2, tokenizer_pb2

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT, ReplyT]):
    """One RPC."""

    path: str
    request: type[RequestT]
    reply: type[ReplyT]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[ResultT]):
    """One call of one request and one reply, ready to be made, and how its reply is read."""

    method: Method[Any, Any]
    request: Any
    read: Callable[[Any], ResultT]
    seconds: float

    @property
    def request_id(self) -> str:
        """ "" for a call that has none."""
        return self.request.options.request_id if "options" in self.request.DESCRIPTOR.fields_by_name else ""


GENERATE = Method(
    "/stretto.v1.GenerationService/Generate",
    generation_pb2.GenerateRequest,
    generation_pb2.GenerateResponse,
)
GENERATE_STREAM = Method(
    "/stretto.v1.GenerationService/GenerateStream",
    generation_pb2.GenerateStreamRequest,
    generation_pb2.GenerateStreamResponse,
)
SCORE = Method(
    "/stretto.v1.GenerationService/Score",
    generation_pb2.ScoreRequest,
    generation_pb2.ScoreResponse,
)
EMBED = Method(
    "/stretto.v1.EmbeddingService/Embed",
    embedding_pb2.EmbedRequest,
    embedding_pb2.EmbedResponse,
)
EMBED_STREAM = Method(
    "/stretto.v1.EmbeddingService/EmbedStream",
    embedding_pb2.EmbedStreamRequest,
    embedding_pb2.EmbedStreamResponse,
)
TOKENIZE = Method(
    "/stretto.v1.TokenizerService/Tokenize",
    tokenizer_pb2.TokenizeRequest,
    tokenizer_pb2.TokenizeResponse,
)
DETOKENIZE = Method(
    "/stretto.v1.TokenizerService/Detokenize",
    tokenizer_pb2.DetokenizeRequest,
    tokenizer_pb2.DetokenizeResponse,
)
GET_SERVER_INFO = Method(
    "/stretto.v1.ServerService/GetServerInfo",
    server_pb2.GetServerInfoRequest,
    server_pb2.GetServerInfoResponse,
)
LIST_MODELS = Method(
    "/stretto.v1.ModelService/ListModels",
    model_pb2.ListModelsRequest,
    model_pb2.ListModelsResponse,
)
GET_MODEL = Method(
    "/stretto.v1.ModelService/GetModel",
    model_pb2.GetModelRequest,
    model_pb2.GetModelResponse,
)
