"""From the wire to the engine: what Embed and EmbedStream ask becomes an EmbedCall, or is refused by name."""

from stretto.engine.errors import InvalidRequest
from stretto.engine.requests import (
    MAX_CHUNKS,
    Aggregation,
    Chunking,
    EmbedCall,
    Pooling,
    TextPrompt,
    TokenPrompt,
)
from stretto.server import refusals
from stretto.server.call import Call
from stretto.server.encodings import ENCODINGS, Encoding
from stretto.server.reading import OVERFLOW, POOLING, call_options, text_input
from stretto.v1 import common_pb2
from stretto.v1 import embedding_pb2 as pb

AGGREGATION = {
    common_pb2.CHUNK_AGGREGATION_UNSPECIFIED: Aggregation.WEIGHTED_MEAN,
    common_pb2.CHUNK_AGGREGATION_WEIGHTED_MEAN: Aggregation.WEIGHTED_MEAN,
    common_pb2.CHUNK_AGGREGATION_MEAN: Aggregation.MEAN,
    common_pb2.CHUNK_AGGREGATION_MAX: Aggregation.MAX,
    common_pb2.CHUNK_AGGREGATION_FIRST: Aggregation.FIRST,
    common_pb2.CHUNK_AGGREGATION_NONE: Aggregation.NONE,
}


def embed_call(request: pb.EmbedRequest, model: str, call: Call) -> EmbedCall:
    inputs = tuple(text_input(each, f"inputs[{place}]") for place, each in enumerate(request.inputs))
    return _call(request, inputs, "inputs[{}]", model, call)


def stream_call(opening: pb.EmbedStreamConfig, model: str, call: Call) -> EmbedCall:
    """What a stream asks of each of its inputs; it has none yet."""
    return _call(opening, (), "item.input", model, call)


def encoding_of(config: pb.EmbedConfig) -> tuple[pb.EmbeddingEncoding, Encoding]:
    refusals.refuse_unknown(config, "encoding", "config.encoding")
    number = config.encoding or pb.EMBEDDING_ENCODING_FLOAT32
    return number, ENCODINGS[number]


def _call(
    request: pb.EmbedRequest | pb.EmbedStreamConfig,
    inputs: tuple[TextPrompt | TokenPrompt | InvalidRequest, ...],
    input_path: str,
    model: str,
    call: Call,
) -> EmbedCall:
    config = request.config
    refusals.refuse_adapter(request.adapter)
    refusals.refuse(request, refusals.EMBED)
    refusals.refuse_unknown(config, "overflow_policy", "config.overflow_policy")
    return EmbedCall(
        model=model,
        inputs=inputs,
        options=call_options(request.options, call),
        pooling=_pooling(config, model),
        normalize=config.normalize if config.HasField("normalize") else None,
        dimensions=config.dimensions if config.HasField("dimensions") else None,
        prompt_name=config.prompt_name if config.HasField("prompt_name") else None,
        prompt_text=config.prompt_text if config.HasField("prompt_text") else None,
        overflow=OVERFLOW[config.overflow_policy],
        chunking=_chunking(config.chunking) if config.HasField("chunking") else None,
        layer=config.layer if config.HasField("layer") else -1,
        input_path=input_path,
    )


def _pooling(config: pb.EmbedConfig, model: str) -> Pooling | None:
    refusals.refuse_unknown(config, "pooling", "config.pooling")
    if config.pooling == common_pb2.POOLING_TYPE_SPARSE:
        raise InvalidRequest(
            f"config.pooling is POOLING_TYPE_SPARSE, which needs a masked-LM head; {model} has none. It pools by "
            f"{', '.join(Pooling)}.",
            field="config.pooling",
        )
    return POOLING[config.pooling]


def _chunking(config: common_pb2.ChunkingConfig) -> Chunking:
    refusals.refuse_unknown(config, "aggregation", "config.chunking.aggregation")
    return Chunking(
        max_chunk_tokens=config.max_chunk_tokens or None,
        overlap_tokens=config.overlap_tokens,
        aggregation=AGGREGATION[config.aggregation],
        max_chunks=config.max_chunks or MAX_CHUNKS,
    )
