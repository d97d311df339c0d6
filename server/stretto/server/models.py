"""ModelService: what is loaded, and how it stands."""

from google.protobuf.json_format import ParseDict

from stretto.engine.core import Engine
from stretto.engine.errors import InvalidRequest, ModelNotReady
from stretto.engine.requests import Task
from stretto.engine.results import ModelCard
from stretto.server import writing
from stretto.server.call import Call
from stretto.server.errors import status_of
from stretto.v1 import model_pb2 as pb
from stretto.v1 import model_pb2_grpc as rpc

STATES = {
    "loading": pb.MODEL_STATE_LOADING,
    "ready": pb.MODEL_STATE_READY,
    "failed": pb.MODEL_STATE_FAILED,
}

TASKS = {
    Task.GENERATE: pb.MODEL_TASK_GENERATE,
    Task.SCORE: pb.MODEL_TASK_SCORE,
    Task.EMBED: pb.MODEL_TASK_EMBED,
}


class ModelService(rpc.ModelServiceServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListModels(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """A page of the models by name; a page's token is the last name of the page before it."""
        cards = sorted(self._engine.cards(), key=lambda card: card.name)
        if request.page_token and request.page_token not in {card.name for card in cards}:
            raise InvalidRequest(
                "page_token is none that ListModels gave, or its model is gone; start again without one.",
                field="page_token",
            )
        rest = [card for card in cards if card.name > request.page_token]
        page = rest[: request.page_size or len(rest)]
        more = page[-1].name if len(page) < len(rest) else ""
        return pb.ListModelsResponse(models=[_written(card) for card in page], next_page_token=more)

    async def GetModel(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        if not request.model:
            raise InvalidRequest("model is empty; GetModel needs a name, ListModels has them.", field="model")
        return pb.GetModelResponse(model=_written(self._engine.card(request.model)))


def _written(card: ModelCard) -> pb.Model:
    model = pb.Model(
        id=card.name,
        version=card.version,
        state=STATES[card.state],
        architecture=card.architecture,
        tasks=[TASKS[task] for task in card.tasks],
        parameter_count=card.parameters,
        dtype=card.dtype,
        quantization=card.quantization,
        device=card.device,
        numerics=writing.NUMERICS[card.numerics],
        vocab_size=card.vocab_size,
        max_input_tokens=card.max_input_tokens,
        max_output_tokens=card.max_sequence_tokens if Task.GENERATE in card.tasks else 0,
        default_overflow_policy=writing.overflow(writing.default_overflow(card)),
        has_chat_template=card.has_chat_template,
        eos_token_ids=card.eos_token_ids,
        bos_token_id=card.bos_token_id,
        embedding_dimensions=card.embedding_dimensions,
        default_pooling=writing.pooling(card.default_pooling),
        prompts=card.prompts,
        weight_bytes=card.weight_bytes,
        kv_cache_bytes=card.cache_bytes,
        kv_cache_tokens=card.cache_tokens,
        training_run=card.training_run,
    )
    if card.default_sampling:
        ParseDict(dict(card.default_sampling), model.default_sampling)
    if card.default_normalize is not None:
        model.default_normalize = card.default_normalize
    if card.loaded_at:
        model.load_time.CopyFrom(writing.timestamp(card.loaded_at))
    if card.state == "failed":
        model.error.CopyFrom(status_of(ModelNotReady(card.error, metadata={"model": card.name})))
    return model
