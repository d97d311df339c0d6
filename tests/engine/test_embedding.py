"""Embed through a real engine process over tiny checkpoints: chunks, pairs, layers and tokens against the slow way."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from stretto.engine.config import Limits, LoadSpec
from stretto.engine.core import Engine
from stretto.engine.errors import BatchTooLarge, EmptyInput, InputTooLong, InvalidRequest, ReplyTooLarge
from stretto.engine.requests import (
    Aggregation,
    Chunking,
    EmbedCall,
    Options,
    Overflow,
    Pooling,
    TextPrompt,
    TokenPrompt,
)
from stretto.engine.results import Embedding

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDTH, LIMIT, LAYERS = 32, 24, 2
CLS, SEP = 1, 2
SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": LIMIT,
    "initializer_range": 0.3,
}


def words(count: int, first: int = 10) -> str:
    return " ".join(f"w{i}" for i in range(first, first + count))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT over the words w0 to w119, of which w1 and w2 wrap every text."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "bert"
    BertModel(BertConfig(**SIZES), add_pooling_layer=False).save_pretrained(folder)
    library = tokenizers.Tokenizer(models.WordLevel({f"w{i}": i for i in range(120)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(
        single="w1 $A w2", pair="w1 $A w2 $B:1 w2:1", special_tokens=[("w1", CLS), ("w2", SEP)]
    )
    library.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Path:
    """A Llama, which has no segments, with the same tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "llama"
    config = LlamaConfig(**SIZES, num_key_value_heads=2, bos_token_id=None, eos_token_id=None)
    LlamaModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text((bert / "tokenizer.json").read_text())
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(bert: Path, llama: Path) -> AsyncIterator[Engine]:
    loads = [
        LoadSpec(name=path.name, path=path, source=path.name, dtype="float32", device="cpu") for path in (bert, llama)
    ]
    engine = Engine(loads, Limits(threads=1), observe=lambda _: None, changed=lambda: None)
    try:
        await engine.start()
        await engine.ready()
        yield engine
    finally:
        await engine.close()


def ask(*inputs: TextPrompt | TokenPrompt | str, model: str = "bert", **more: Any) -> EmbedCall:
    return EmbedCall(
        model=model,
        inputs=tuple(TextPrompt(text=each) if isinstance(each, str) else each for each in inputs),
        options=Options(request_id="r", received=time.monotonic()),
        **{"normalize": False} | more,
    )


def chunked(aggregation: Aggregation, **more: Any) -> dict[str, Any]:
    return {"overflow": Overflow.CHUNK, "chunking": Chunking(aggregation=aggregation, **more)}


def rows(result: object) -> NDArray[np.float32]:
    assert isinstance(result, Embedding), result
    return np.frombuffer(result.vectors, "<f4").reshape(-1, result.dimensions)


async def one_by_one(engine: Engine, chunks: list[list[int]], **more: Any) -> NDArray[np.float32]:
    """Each chunk embedded alone, as token ids."""
    results = [(await engine.embed(ask(TokenPrompt(ids=tuple(ids)), **more))).results[0] for ids in chunks]
    return np.concatenate([rows(result) for result in results])


def slow_chunks(body: list[int], room: int, overlap: int) -> list[list[int]]:
    """Windows cut one after another until the text is used up."""
    chunks, start = [body[:room]], 0
    while start + room < len(body):
        start += room - overlap
        chunks.append(body[start : start + room])
    return chunks


def together(vectors: NDArray[np.float32], counts: list[int], aggregation: Aggregation) -> NDArray[np.float64]:
    vectors_ = vectors.astype(np.float64)
    weights = np.array(counts)[:, None]
    return {
        Aggregation.WEIGHTED_MEAN: (vectors_ * weights).sum(0) / weights.sum(),
        Aggregation.MEAN: vectors_.sum(0) / len(vectors_),
        Aggregation.MAX: vectors_.max(0),
        Aggregation.FIRST: vectors_[0],
    }[aggregation]


COMBINING = [each for each in Aggregation if each is not Aggregation.NONE]


@pytest.mark.parametrize("aggregation", COMBINING)
@pytest.mark.parametrize(("normalize", "dimensions"), [(False, None), (True, None), (True, 5)])
@pytest.mark.parametrize(("size", "overlap"), [(None, 0), (9, 3)])
async def test_chunks_are_embedded_one_by_one_combined_cut_and_normalised_at_the_end(
    engine: Engine, aggregation: Aggregation, normalize: bool, dimensions: int | None, size: int | None, overlap: int
) -> None:
    call = ask(
        words(61),
        words(3),
        normalize=normalize,
        dimensions=dimensions,
        **chunked(aggregation, max_chunk_tokens=size, overlap_tokens=overlap),
    )
    long, short = (await engine.embed(call)).results
    room = (size or LIMIT) - 2
    chunks = [[CLS, *piece, SEP] for piece in slow_chunks(list(range(10, 71)), room, overlap)]
    want = together(await one_by_one(engine, chunks), [len(ids) for ids in chunks], aggregation)[:dimensions]
    want = want / np.linalg.norm(want) if normalize else want
    np.testing.assert_allclose(rows(long), [want], atol=1e-5)
    alone = (await engine.embed(ask(words(3), normalize=normalize, dimensions=dimensions))).results[0]
    np.testing.assert_allclose(rows(short), rows(alone), atol=1e-5)
    assert isinstance(long, Embedding)
    assert isinstance(short, Embedding)
    assert (long.report.chunk_count, short.report.chunk_count) == (len(chunks), 1)
    assert long.report.token_count == sum(map(len, chunks))
    assert long.report.truncated_tokens == 0


async def test_chunks_that_are_not_combined_keep_a_vector_each(engine: Engine) -> None:
    answer = await engine.embed(ask(words(61), normalize=True, **chunked(Aggregation.NONE)))
    chunks = [[CLS, *piece, SEP] for piece in slow_chunks(list(range(10, 71)), LIMIT - 2, 0)]
    np.testing.assert_allclose(rows(answer.results[0]), await one_by_one(engine, chunks, normalize=True), atol=1e-5)
    assert answer.usage.prompt_tokens == sum(map(len, chunks))


async def test_given_ids_are_cut_into_chunks_without_special_tokens(engine: Engine) -> None:
    ids = list(range(10, 60))
    answer = await engine.embed(ask(TokenPrompt(ids=tuple(ids)), **chunked(Aggregation.NONE)))
    chunks = [ids[:LIMIT], ids[LIMIT : 2 * LIMIT], ids[2 * LIMIT :]]
    np.testing.assert_allclose(rows(answer.results[0]), await one_by_one(engine, chunks), atol=1e-5)


async def test_a_text_of_more_chunks_than_may_be_fails_alone_with_both_figures(engine: Engine) -> None:
    bad, good = (await engine.embed(ask(words(61), words(22), **chunked(Aggregation.MEAN, max_chunks=2)))).results
    assert isinstance(bad, InputTooLong)
    assert (bad.metadata["chunk_count"], bad.metadata["max_chunks"], bad.field) == ("3", "2", "inputs[0]")
    assert isinstance(good, Embedding)


async def test_inputs_of_more_chunks_than_a_call_may_have_are_refused_with_what_fits(engine: Engine) -> None:
    inputs = [words(40)] * 500  # 40 chunks each, of one token beside the special ones
    with pytest.raises(BatchTooLarge, match=r"500 inputs make 20000 chunks; the limit is 16384 .* first 409") as caught:
        await engine.embed(ask(*inputs, **chunked(Aggregation.MEAN, max_chunk_tokens=3)))
    assert (caught.value.field, caught.value.metadata["max_inputs"]) == ("inputs", "409")
    assert engine.admission.num_requests == 0


@pytest.mark.parametrize(
    ("chunking", "field", "said"),
    [
        ({"max_chunk_tokens": LIMIT + 1}, "max_chunk_tokens", r"is 25; bert takes 3 to 24"),
        ({"max_chunk_tokens": 2}, "max_chunk_tokens", r"is 2; bert takes 3 to 24"),
        ({"overlap_tokens": LIMIT - 2}, "overlap_tokens", r"is 22; a chunk of 24 tokens has room for 22"),
        ({"max_chunk_tokens": 5, "overlap_tokens": 3}, "overlap_tokens", r"is 3; a chunk of 5 tokens has room for 3"),
        ({"overlap_tokens": (LIMIT - 2) // 2 + 1}, "overlap_tokens", r"is 12; .* and the overlap may be half of that"),
    ],
)
async def test_chunks_that_cannot_be_are_refused_by_name(
    engine: Engine, chunking: dict[str, int], field: str, said: str
) -> None:
    call = ask("w10", **chunked(Aggregation.MEAN, **chunking))
    with pytest.raises(InvalidRequest, match=said) as caught:
        await engine.embed(call)
    assert caught.value.field == f"config.chunking.{field}"


def hidden_states(folder: Path, ids: list[int], segments: list[int] | None = None) -> list[NDArray[np.float32]]:
    model = (BertModel if folder.name == "bert" else LlamaModel).from_pretrained(folder, dtype=torch.float32)
    more = {} if segments is None else {"token_type_ids": torch.tensor([segments])}
    with torch.inference_mode():
        states = model(torch.tensor([ids]), output_hidden_states=True, **more).hidden_states
    return [state[0].numpy() for state in states]


async def test_a_pair_is_read_as_the_post_processor_puts_it_together(engine: Engine, bert: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(bert / "tokenizer.json"))
    said = library.encode("w10 w11 w12", "w20 w21")
    call = ask(TextPrompt(text="w11 w12", pair="w20 w21"), "w10", prompt_text="w10 ", pooling=Pooling.NONE)
    pair, _ = (await engine.embed(call)).results
    assert isinstance(pair, Embedding)
    assert list(pair.token_ids) == said.ids
    np.testing.assert_allclose(rows(pair), hidden_states(bert, said.ids, said.type_ids)[-1], atol=1e-4)


async def test_a_pair_that_is_too_long_is_cut_and_counted(engine: Engine) -> None:
    (result,) = (await engine.embed(ask(TextPrompt(text=words(30), pair=words(5)), pooling=Pooling.NONE))).results
    assert isinstance(result, Embedding)
    assert list(result.token_ids) == [CLS, *range(10, 26), SEP, *range(10, 15), SEP]
    assert (result.report.token_count, result.report.truncated_tokens) == (LIMIT, 14)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": "llama"}, "llama does not read pairs: it has no segments"),
        ({"overflow": Overflow.CHUNK}, "a pair is not cut into chunks"),
    ],
)
async def test_a_pair_that_cannot_be_read_fails_alone(engine: Engine, more: dict[str, Any], said: str) -> None:
    bad, good = (await engine.embed(ask(TextPrompt(text="w10", pair="w11"), "w12", **more))).results
    assert isinstance(bad, InvalidRequest)
    assert said in bad.message
    assert bad.field == "inputs[0].text_pair"
    assert isinstance(good, Embedding)


@pytest.mark.parametrize("layer", range(-LAYERS - 1, LAYERS + 1))
async def test_every_layer_is_that_of_transformers(engine: Engine, bert: Path, llama: Path, layer: int) -> None:
    for folder in (bert, llama):
        call = ask("w10 w11 w12", model=folder.name, layer=layer, pooling=Pooling.NONE)
        (result,) = (await engine.embed(call)).results
        want = hidden_states(folder, [CLS, 10, 11, 12, SEP])[layer]
        np.testing.assert_allclose(rows(result), want, atol=1e-4)


@pytest.mark.parametrize("layer", [LAYERS + 1, -LAYERS - 2])
async def test_a_layer_that_is_not_there_is_refused_with_the_range(engine: Engine, layer: int) -> None:
    with pytest.raises(InvalidRequest, match=r"bert has 2 layers: 0 \(the embeddings\) to 2, or -1 .* to -3") as caught:
        engine.check_embed(ask(layer=layer))
    assert caught.value.field == "config.layer"


async def test_tokens_keep_their_vectors_over_chunks_too(engine: Engine) -> None:
    call = ask(words(30), pooling=Pooling.NONE, dimensions=4, normalize=True, **chunked(Aggregation.NONE))
    (result,) = (await engine.embed(call)).results
    chunks = [[CLS, *range(10, 32), SEP], [CLS, *range(32, 40), SEP]]
    assert isinstance(result, Embedding)
    assert list(result.token_ids) == [*chunks[0], *chunks[1]]
    alone = await one_by_one(engine, chunks, pooling=Pooling.NONE, dimensions=4, normalize=True)
    np.testing.assert_allclose(rows(result), alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows(result), axis=1), 1, atol=1e-5)


async def test_vectors_that_no_reply_would_hold_are_refused_with_what_fits(engine: Engine) -> None:
    inputs = [words(8), words(8), words(8), words(8)]  # ten tokens each
    with pytest.raises(
        ReplyTooLarge, match=r"4 inputs make 40 vectors; the reply has room for 29\. The first 2"
    ) as caught:
        await engine.embed(ask(*inputs, pooling=Pooling.NONE, max_vectors=29))
    with pytest.raises(ReplyTooLarge):
        await engine.embed(ask(*inputs, pooling=Pooling.NONE, max_vectors=39))
    assert (caught.value.field, caught.value.metadata["max_inputs"]) == ("inputs", "2")
    assert engine.admission.num_requests == 0
    assert len((await engine.embed(ask(*inputs, pooling=Pooling.NONE, max_vectors=40))).results) == 4


async def test_an_input_of_more_vectors_than_a_reply_holds_fails_alone_where_each_has_its_own(engine: Engine) -> None:
    call = ask(words(8), words(2), pooling=Pooling.NONE, max_vectors_each=9, input_path="item.input")
    bad, good = (await engine.embed(call)).results
    assert isinstance(bad, ReplyTooLarge)
    assert bad.field == "item.input"
    assert isinstance(good, Embedding)


async def test_an_input_without_tokens_is_refused_under_every_policy(engine: Engine) -> None:
    for policy in Overflow:
        (result,) = (await engine.embed(ask(TokenPrompt(ids=()), overflow=policy))).results
        assert isinstance(result, EmptyInput)
