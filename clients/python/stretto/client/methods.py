"""The calls of the wire format that the clients make: path and types, the same for both kinds of channel."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from stretto.v1 import embedding_pb2, generation_pb2, model_pb2

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT, ReplyT]):
    """One RPC."""

    path: str
    request: type[RequestT]
    reply: type[ReplyT]


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
EMBED = Method(
    "/stretto.v1.EmbeddingService/Embed",
    embedding_pb2.EmbedRequest,
    embedding_pb2.EmbedResponse,
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
