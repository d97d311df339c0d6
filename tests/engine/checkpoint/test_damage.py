"""Proves that no damaged checkpoint is loaded, hangs or ends in a traceback: an error names the file and the fault."""

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoModel

from stretto.engine.config import Limits, LoadSpec
from stretto.engine.errors import CheckpointError, InvalidRequest
from stretto.engine.loading import load
from stretto.engine.requests import Chat, GenerateCall, Message, Options, Output, Stopping
from stretto.engine.sampling import Sampling
from stretto.engine.served import Served

SECONDS = 5.0
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
NORM = "model.norm.weight"
Damage = Callable[[Path], object]


@pytest.fixture
def whole(llama: Path) -> Path:
    """A tiny Llama that can be served: with a tokenizer, and settings for both."""
    library = tokenizers.Tokenizer(models.WordLevel({f"w{i}": i for i in range(90)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(single="w1 $A", special_tokens=[("w1", 1)])
    library.save(str(llama / TOKENIZER))
    (llama / "tokenizer_config.json").write_text('{"bos_token": "w1", "eos_token": "w2"}')
    return llama


@pytest.fixture
def sentences(bert: Path) -> Path:
    """A tiny BERT that makes vectors as sentence-transformers does."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, 96))]
    (bert / "vocab.txt").write_text("\n".join(words))
    listed = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in listed]
    (bert / "modules.json").write_text(json.dumps(modules))
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return bert


def serve(path: Path) -> Served:
    """Everything that `stretto serve` does with a model before it takes requests, in both of its processes."""
    spec = LoadSpec(name="m", path=path, source="m", dtype="float32", device="cpu", cache_bytes=1 << 20)
    served = Served.open(spec)
    load(served.load_message(), Limits())
    served.version()
    return served


def refusal(path: Path) -> str:
    begun = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        serve(path)
    assert time.monotonic() - begun < SECONDS
    return caught.value.message


def said(file: str, **values: Any) -> Damage:
    """Have a JSON file say something else; None takes the key away."""

    def damage(folder: Path) -> None:
        path = folder / file
        held = {**(json.loads(path.read_text()) if path.exists() else {}), **values}
        path.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))

    return damage


def text(file: str, content: str) -> Damage:
    return lambda folder: (folder / file).write_text(content)


def cut(file: str, keep: float) -> Damage:
    return lambda folder: os.truncate(folder / file, int((folder / file).stat().st_size * keep))


def gone(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def link(file: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return damage


def pipe(file: str) -> Damage:
    """A file that nobody ever writes to: whoever opens it waits for ever."""

    def damage(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return damage


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the header of the weights, and leave the data as they are."""

    def damage(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        described = json.loads(data[8 : 8 + length])
        change(described)
        raw = json.dumps(described).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + data[8 + length :])

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Write other tensors, in a file that is whole."""

    def damage(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS)

    return damage


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        held = json.loads((folder / TOKENIZER).read_text())
        change(held)
        (folder / TOKENIZER).write_text(json.dumps(held))

    return damage


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


CONFIG, GENERATION, WORDS = "config.json", "generation_config.json", "tokenizer_config.json"
LLAMA: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "weights cut in the header": (cut(WEIGHTS, 0.01), ("llama/model.safetensors", "its header has")),
    "weights cut in the data": (cut(WEIGHTS, 0.9), ("llama/model.safetensors", "is said to be at")),
    "weights empty": (cut(WEIGHTS, 0), ("llama/model.safetensors has 0 bytes",)),
    "weights gone": (gone(WEIGHTS), ("llama has neither model.safetensors nor",)),
    "weights are a pickle": (pickled, ("llama holds only pytorch_model.bin, a pickle",)),
    "weights are a link to themselves": (link(WEIGHTS, WEIGHTS), ("llama/model.safetensors is a link to nothing",)),
    "weights are a link to nothing": (link(WEIGHTS, "blobs/0"), ("llama/model.safetensors is a link to nothing",)),
    "weights are a pipe": (pipe(WEIGHTS), ("llama/model.safetensors is a device",)),
    "header beyond the file": (
        lambda folder: (folder / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 63) + b"{}"),
        ("llama/model.safetensors", "9,223,372,036,854,775,808 bytes; the file has 10"),
    ),
    "header no JSON": (
        lambda folder: (folder / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"{no}"),
        ("the header of llama/model.safetensors is not JSON",),
    ),
    "tensors overlap": (
        header(lambda h: h[NORM].update(data_offsets=[0, 128])),
        ("llama/model.safetensors", "overlaps the one before it"),
    ),
    "tensors leave a hole": (header(lambda h: h.pop("lm_head.weight")), ("model.safetensors", "leaves a hole")),
    "an unknown dtype": (header(lambda h: h[NORM].update(dtype="F31")), (NORM, "dtype 'F31'")),
    "a shape that its bytes are not": (header(lambda h: h[NORM].update(shape=[33])), (NORM, "132 bytes, not 128")),
    "a shape that the model has not": (
        header(lambda h: h[NORM].update(shape=[16, 2])),
        ("llama/config.json", f"{NORM} [16, 2], which should make [32]"),
    ),
    "whole numbers for weights": (header(lambda h: h[NORM].update(dtype="I32")), ("llama", f"{NORM} is I32")),
    "a tensor missing": (weights(lambda held: held.pop(NORM)), ("llama/config.json", f"missing: {NORM}")),
    "a tensor too many": (
        weights(lambda held: held.update(extra=torch.ones(3))),
        ("llama/config.json", "not used by a LlamaForCausalLM: extra [3]"),
    ),
    "config gone": (gone(CONFIG), ("llama has no config.json",)),
    "config cut": (cut(CONFIG, 0.5), ("llama/config.json is not JSON",)),
    "config a list": (text(CONFIG, "[]"), ("llama/config.json holds a list",)),
    "config without a size": (said(CONFIG, intermediate_size=None), ("llama/config.json", "'intermediate_size'")),
    "config of another model": (said(CONFIG, architectures=["OtherModel"]), ("llama/config.json", "OtherModel")),
    "a vocabulary of 10^12": (said(CONFIG, vocab_size=10**12), ("llama/config.json says vocab_size 1000000000000",)),
    "a vocabulary of 10^9": (said(CONFIG, vocab_size=10**9), ("llama/config.json", "[1000000000, 32]")),
    "10^9 layers": (said(CONFIG, num_hidden_layers=10**9), ("llama/config.json says 1,000,000,000 layers",)),
    "a context of 10^9": (said(CONFIG, max_position_embeddings=10**9), ("llama/config.json says context 1000000000",)),
    "10^9 heads": (said(CONFIG, num_attention_heads=10**9), ("llama/config.json", "q_proj")),
    "negative layers": (said(CONFIG, num_hidden_layers=-2), ("llama/config.json says layers -2",)),
    "negative key heads": (said(CONFIG, num_key_value_heads=-2), ("llama/config.json", "-2 key heads")),
    "no key heads": (said(CONFIG, num_key_value_heads=0), ("llama/config.json", "0 key heads")),
    "two and a half layers": (said(CONFIG, num_hidden_layers=2.5), ("llama/config.json says num_hidden_layers '2.5'",)),
    "a size in letters": (said(CONFIG, vocab_size="96"), ("llama/config.json says vocab_size '96'", "whole number")),
    "a switch in letters": (said(CONFIG, mlp_bias="no"), ("llama/config.json says mlp_bias 'no'", "true or false")),
    "a norm without a number": (said(CONFIG, rms_norm_eps=float("nan")), ("llama/config.json", "rms_norm_eps 'nan'")),
    "a rope that turns backwards": (
        said(CONFIG, rope_parameters={"rope_type": "default", "rope_theta": -1.0}),
        ("llama/config.json says rope_theta -1.0",),
    ),
    "a rope divided by a negative": (
        said(CONFIG, rope_parameters={"rope_type": "linear", "factor": -4.0}),
        ("llama/config.json", "'factor': -4.0"),
    ),
    "an end token beyond the model": (said(CONFIG, eos_token_id=500), ("llama", "the token 500", "from 0 to 95")),
    "tokenizer gone": (gone(TOKENIZER), ("llama has no tokenizer",)),
    "tokenizer cut": (cut(TOKENIZER, 0.5), ("llama/tokenizer.json is not a tokenizer",)),
    "tokenizer of something else": (text(TOKENIZER, '{"a": 1}'), ("llama/tokenizer.json is not a tokenizer",)),
    "tokenizer a link to nothing": (link(TOKENIZER, "gone"), ("llama/tokenizer.json is a link to nothing",)),
    "a negative id": (
        tokenizer(lambda held: held["model"]["vocab"].update(w9=-1)),
        ("llama/tokenizer.json is not a tokenizer", "-1"),
    ),
    "no unknown token": (
        tokenizer(lambda held: held["model"].update(unk_token="zz")),
        ("llama/tokenizer.json: unk_token is 'zz'",),
    ),
    "a first token beyond the model": (
        tokenizer(lambda held: held["post_processor"]["special_tokens"]["w1"].update(ids=[500])),
        ("llama", "the token 500", "from 0 to 95"),
    ),
    "tokenizer_config cut": (cut(WORDS, 0.5), ("llama/tokenizer_config.json is not JSON",)),
    "tokenizer_config a link to nothing": (link(WORDS, "gone"), ("llama/tokenizer_config.json is a link to nothing",)),
    "an end token that is none": (said(WORDS, eos_token="zz"), ("llama/tokenizer_config.json: eos_token is 'zz'",)),
    "an end token that is a number": (said(WORDS, eos_token=7), ("llama/tokenizer_config.json: eos_token is '7'",)),
    "half a token for a length": (said(WORDS, model_max_length=2.5), ("llama/tokenizer_config.json", "2.5")),
    "a template that is a number": (said(WORDS, chat_template=7), ("llama/tokenizer_config.json: chat_template",)),
    "generation_config a folder": (
        lambda folder: ((folder / GENERATION).unlink(), (folder / GENERATION).mkdir()),
        ("llama/generation_config.json is a folder",),
    ),
    "a temperature in letters": (said(GENERATION, temperature="hot"), ("generation_config.json", "temperature 'hot'")),
    "a temperature below 0": (said(GENERATION, temperature=-1), ("generation_config.json", "temperature", "-1")),
    "a temperature of 10^400": (said(GENERATION, temperature=10**400), ("generation_config.json", "temperature '1000")),
    "a top_k below 0": (said(GENERATION, top_k=-1), ("generation_config.json", "top_k", "-1")),
    "a top_k of two and a half": (said(GENERATION, top_k=2.5), ("generation_config.json", "top_k 2.5")),
    "do_sample in letters": (said(GENERATION, do_sample="no"), ("generation_config.json says do_sample 'no'",)),
    "an end token in letters": (said(GENERATION, eos_token_id="w2"), ("llama/generation_config.json", "'w2'")),
}  # fmt: skip

BERT: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "modules cut": (cut("modules.json", 0.5), ("bert/modules.json is not JSON",)),
    "modules a link to nothing": (link("modules.json", "gone"), ("bert/modules.json is a link to nothing",)),
    "a module outside": (
        text("modules.json", '[{"type": "sentence_transformers.models.Transformer", "path": "../.."}]'),
        ("bert/modules.json", "'../..', outside the checkpoint"),
    ),
    "an unknown pooling": (text("1_Pooling/config.json", '{"pooling_mode": "best"}'), ("1_Pooling", "['best']")),
    "no pooling file": (gone("1_Pooling/config.json"), ("bert/1_Pooling/config.json cannot be read",)),
    "prompts of numbers": (
        said("config_sentence_transformers.json", prompts={"query": 7}),
        ("bert/config_sentence_transformers.json: prompts",),
    ),
    "a length in letters": (said("sentence_bert_config.json", max_seq_length="all"), ("sentence_bert_config", "'all'")),
    "words beyond the model": (said(CONFIG, vocab_size=50), ("bert/config.json", "which should make [50, 32]")),
    "words without a last token": (text("vocab.txt", "[PAD]\n[UNK]\n[CLS]\nw1"), ("bert/vocab.txt", "[SEP]")),
    "words of no text": (lambda folder: (folder / "vocab.txt").write_bytes(b"\xff\xfe"), ("bert/vocab.txt", "UTF-8")),
}  # fmt: skip


def test_undamaged_they_are_served(whole: Path, sentences: Path) -> None:
    assert serve(whole).card.notes == ()
    assert serve(sentences).card.notes == ()


@pytest.mark.parametrize(("damage", "named"), LLAMA.values(), ids=LLAMA)
def test_a_damaged_llama_is_refused_by_its_file_and_fault(whole: Path, damage: Damage, named: tuple[str, ...]) -> None:
    damage(whole)
    message = refusal(whole)
    assert all(part in message for part in named), message


@pytest.mark.parametrize(("damage", "named"), BERT.values(), ids=BERT)
def test_a_damaged_bert_is_refused_by_its_file_and_fault(
    sentences: Path, damage: Damage, named: tuple[str, ...]
) -> None:
    damage(sentences)
    message = refusal(sentences)
    assert all(part in message for part in named), message


def test_a_tokenizer_with_more_tokens_than_the_model_is_served_and_that_is_said(whole: Path) -> None:
    tokenizer(lambda held: held["model"]["vocab"].update(w89=10**6))(whole)
    (note,) = serve(whole).card.notes
    assert "the tokenizer has 1,000,001 tokens, the model 96" in note


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% if %}", "cannot be compiled: Expected an expression"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "more than 100,000 steps"),
        ("{{ messages.__class__.__mro__ }}", "access to attribute '__class__' of 'list' object is unsafe"),
        ("{{ 'x' * 10**9 }}", "would make too long a text"),
    ],
)
def test_a_template_that_is_broken_or_wicked_is_refused_to_who_asks_for_it(
    whole: Path, template: str, fault: str
) -> None:
    said(WORDS, chat_template=template)(whole)
    served = serve(whole)
    call = GenerateCall(
        model="m",
        prompt=Chat(messages=(Message(role="user", content="w5"),)),
        sampling=Sampling(),
        stopping=Stopping(),
        output=Output(),
        options=Options(request_id="", received=0.0),
    )
    begun = time.monotonic()
    with pytest.raises(InvalidRequest) as caught:
        served.prompt(call)
    assert time.monotonic() - begun < SECONDS
    assert "The model's chat template" in caught.value.message
    assert fault in caught.value.message


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda held, first: held.update({min(held): "gone.safetensors"}), "names 'gone.safetensors'"),
        (lambda held, first: held.pop(next(name for name in held if held[name] == first)), "puts nowhere"),
        (lambda held, first: held.update(extra=first), "puts 'extra' in"),
        (lambda held, first: held.update({min(held): "../llama/model.safetensors"}), "files beside their index"),
    ],
)
def test_an_index_that_does_not_say_what_the_shards_hold_is_refused(
    sentences: Path, damage: Callable[[dict[str, str], str], object], named: str
) -> None:
    model = AutoModel.from_pretrained(sentences)
    (sentences / WEIGHTS).unlink()
    model.save_pretrained(sentences, max_shard_size="20KB")
    serve(sentences)
    index = sentences / f"{WEIGHTS}.index.json"
    held = json.loads(index.read_text())
    damage(held["weight_map"], min(held["weight_map"].values()))
    index.write_text(json.dumps(held))
    message = refusal(sentences)
    assert "bert/model.safetensors.index.json" in message
    assert named in message


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} is empty" in refusal(tmp_path / "empty")


def test_a_gguf_file_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").symlink_to("gone")
    assert "models/tiny.gguf is a link to nothing" in refusal(tmp_path / "models")
    with pytest.raises(CheckpointError, match="does not exist"):
        serve(tmp_path / "models" / "tiny.gguf")
