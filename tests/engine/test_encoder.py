"""Vectors of a mixed batch equal transformers with padding and sentence-transformers' pooling, one text at a time."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel

from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.encoder import Encoder, finished, pooled
from stretto.engine.messages import Encode
from stretto.engine.models.loading import build
from stretto.engine.requests import Pooling

CPU = torch.device("cpu")
WIDTH = 32
LENGTHS = [7, 1, 40, 7, 20, 3]
THEIR_NAMES = {
    Pooling.CLS: "cls",
    Pooling.MEAN: "mean",
    Pooling.MAX: "max",
    Pooling.LAST_TOKEN: "lasttoken",
    Pooling.WEIGHTED_MEAN: "weightedmean",
    Pooling.MEAN_SQRT_LEN: "mean_sqrt_len_tokens",
}
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def theirs_of(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "bert":
        model: PreTrainedModel = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    else:
        model = LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2))
    model.train(False)
    return model


@pytest.fixture(params=["bert", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Encoder]:
    theirs, folder = theirs_of(request.param), tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    ours: Any = build(open_checkpoint(folder), dtype=torch.float32, device=CPU)
    return theirs, Encoder(ours, CPU)


ONE = list(THEIR_NAMES)  # the poolings that make one vector


def texts_of(poolings: list[Pooling], **wishes: Any) -> list[Encode]:
    chance = torch.Generator().manual_seed(1)
    return [
        Encode(
            id=1,
            index=index,
            model="m",
            ids=torch.randint(0, 96, (LENGTHS[index % len(LENGTHS)],), generator=chance).tolist(),
            pooling=pooling,
            **({"normalize": False} | wishes),
        )
        for index, pooling in enumerate(poolings)
    ]


def their_vector(model: PreTrainedModel, text: Encode) -> Tensor:
    """Padded on the right, as a tokenizer would, so that a mask is needed."""
    ids = torch.tensor([[*text.ids, 0, 0, 0]])
    mask = torch.tensor([[1] * len(text.ids) + [0] * 3])
    with torch.inference_mode():
        hidden = model(ids, attention_mask=mask).last_hidden_state
        pooling = TheirPooling(WIDTH, pooling_mode=THEIR_NAMES[Pooling(text.pooling)])
        vector: Tensor = pooling({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"][0]
    return vector


def vectors(encoder: Encoder, texts: list[Encode]) -> list[Tensor]:
    got = encoder.run(texts)
    return [torch.from_numpy(np.frombuffer(one, "<f4").copy()) for one in got if one is not None]


@pytest.mark.parametrize("pooling", ONE)
def test_each_pooling_is_that_of_sentence_transformers(pair: tuple[PreTrainedModel, Encoder], pooling: Pooling) -> None:
    theirs, encoder = pair
    texts = texts_of([pooling] * 6)
    for text, vector in zip(texts, vectors(encoder, texts), strict=True):
        torch.testing.assert_close(vector, their_vector(theirs, text), atol=1e-4, rtol=0)


def test_texts_of_one_batch_may_be_pooled_differently(pair: tuple[PreTrainedModel, Encoder]) -> None:
    theirs, encoder = pair
    texts = texts_of([*ONE, *ONE])
    for text, vector in zip(texts, vectors(encoder, texts), strict=True):
        torch.testing.assert_close(vector, their_vector(theirs, text), atol=1e-4, rtol=0)


def their_states(model: PreTrainedModel, text: Encode) -> tuple[Tensor, ...]:
    segments = {"token_type_ids": torch.tensor([text.segments])} if text.segments else {}
    with torch.inference_mode():
        states: tuple[Tensor, ...] = model(
            torch.tensor([text.ids]), output_hidden_states=True, **segments
        ).hidden_states
    return tuple(state[0] for state in states)


def test_every_token_keeps_its_vector_where_nothing_is_pooled(pair: tuple[PreTrainedModel, Encoder]) -> None:
    theirs, encoder = pair
    texts = texts_of(
        [Pooling.NONE, Pooling.MEAN, Pooling.NONE, Pooling.NONE, Pooling.CLS], dimensions=5, normalize=True
    )
    got = vectors(encoder, texts)
    for text, vector in zip(texts, got, strict=True):
        if text.pooling == Pooling.NONE:
            want = torch.nn.functional.normalize(their_states(theirs, text)[-1][:, :5], dim=-1)
            torch.testing.assert_close(vector.view(-1, 5), want, atol=1e-4, rtol=0)
        else:
            torch.testing.assert_close(vector, vectors(encoder, [text])[0], atol=1e-5, rtol=0)


def test_texts_of_one_batch_may_be_of_different_layers(pair: tuple[PreTrainedModel, Encoder]) -> None:
    theirs, encoder = pair
    layers = [0, 1, 2, -1, -2, -3]
    texts = [
        msgspec.structs.replace(text, layer=n) for text, n in zip(texts_of([Pooling.NONE] * 6), layers, strict=True)
    ]
    for text, vector in zip(texts, vectors(encoder, texts), strict=True):
        torch.testing.assert_close(vector.view(-1, WIDTH), their_states(theirs, text)[text.layer], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("layers", "computed"), [([0, 0], 0), ([1, 0], 1), ([-1, 0], 2)])
def test_layers_above_the_highest_that_is_asked_are_not_computed(
    pair: tuple[PreTrainedModel, Encoder], layers: list[int], computed: int
) -> None:
    _, encoder = pair
    ran: list[int] = []
    model: Any = encoder._model
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    texts = texts_of([Pooling.MEAN] * 2)
    encoder.run([msgspec.structs.replace(text, layer=layer) for text, layer in zip(texts, layers, strict=True)])
    assert ran == list(range(computed))


def test_segments_are_those_of_transformers_also_beside_texts_without(tmp_path: Path) -> None:
    theirs = theirs_of("bert")
    theirs.save_pretrained(tmp_path)
    ours: Any = build(open_checkpoint(tmp_path), dtype=torch.float32, device=CPU)
    plain, paired, other = texts_of([Pooling.NONE] * 3)
    paired = msgspec.structs.replace(plain, segments=[0] * 3 + [1] * 4)
    texts = [plain, paired, other]
    got = vectors(Encoder(ours, CPU), texts)
    for text, vector in zip(texts, got, strict=True):
        torch.testing.assert_close(vector.view(-1, WIDTH), their_states(theirs, text)[-1], atol=1e-4, rtol=0)
    assert not torch.allclose(got[0], got[1], atol=1e-2)


def test_a_text_has_the_same_vector_alone_and_in_company(pair: tuple[PreTrainedModel, Encoder]) -> None:
    _, encoder = pair
    texts = texts_of([*Pooling, *Pooling], normalize=True)
    for text, vector in zip(texts, vectors(encoder, texts), strict=True):
        torch.testing.assert_close(vector, vectors(encoder, [text])[0], atol=1e-5, rtol=0)


def test_a_vector_is_cut_first_and_normalised_then(pair: tuple[PreTrainedModel, Encoder]) -> None:
    _, encoder = pair
    (whole,) = vectors(encoder, texts_of([Pooling.MEAN]))
    (cut,) = vectors(encoder, texts_of([Pooling.MEAN], dimensions=5))
    (unit,) = vectors(encoder, texts_of([Pooling.MEAN], dimensions=5, normalize=True))
    assert torch.equal(cut, whole[:5])
    torch.testing.assert_close(unit, whole[:5] / whole[:5].norm())


def test_each_text_has_dimensions_and_a_length_of_its_own() -> None:
    texts = [
        *texts_of([Pooling.MEAN], dimensions=3, normalize=True),
        *texts_of([Pooling.MEAN]),
        *texts_of([Pooling.MEAN], normalize=True),
    ]
    first, second, third = finished(torch.full((3, 4), 2.0), texts)
    torch.testing.assert_close(first, torch.tensor([3**-0.5] * 3 + [0.0]))
    torch.testing.assert_close(second, torch.full((4,), 2.0))
    torch.testing.assert_close(third, torch.full((4,), 0.5))


def test_a_vector_of_zeros_stays_one() -> None:
    (zeros,) = finished(torch.zeros(1, 4), texts_of([Pooling.MEAN], normalize=True))
    assert torch.equal(zeros, torch.zeros(4))


def test_a_text_that_is_no_number_fails_alone(pair: tuple[PreTrainedModel, Encoder], tmp_path: Path) -> None:
    theirs, encoder = pair
    texts = texts_of([*Pooling, *Pooling])
    clean = encoder.run(texts)
    poison = texts[1].ids[0]  # the whole of the shortest text
    broken = {index for index, text in enumerate(texts) if poison in text.ids}
    broken -= {
        index  # the first row of a causal model has not seen what comes after
        for index in broken
        if texts[index].pooling == Pooling.CLS and isinstance(theirs, LlamaModel) and texts[index].ids[0] != poison
    }
    assert 0 < len(broken) < len(texts)
    embeddings = next(name for name, parameter in theirs.named_parameters() if len(parameter) == 96)
    with torch.no_grad():
        theirs.get_parameter(embeddings)[poison] = torch.nan
    theirs.save_pretrained(tmp_path)
    ours: Any = build(open_checkpoint(tmp_path), dtype=torch.float32, device=CPU)
    got = Encoder(ours, CPU).run(texts)
    assert got == [None if index in broken else vector for index, vector in enumerate(clean)]


@pytest.mark.parametrize("kind", ONE)
def test_pooling_makes_every_tensor_where_the_hidden_states_are(kind: Pooling) -> None:
    """The meta device stands for a GPU: an operator that met a tensor of the host's would raise."""
    hidden = torch.empty(9, WIDTH, device="meta")
    vectors_ = pooled(hidden, [2, 4, 3], [kind] * 3)
    assert finished(vectors_, texts_of([kind] * 3)).device.type == "meta"
