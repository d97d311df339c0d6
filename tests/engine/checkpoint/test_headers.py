"""Proves that opening a checkpoint says what is in it, quickly and without torch, or refuses it by name."""

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.errors import CheckpointError
from stretto.engine.requests import Pooling, Task

Write = Callable[..., Path]


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file, or remove those that are None."""
    said = json.loads(path.read_text()) if path.exists() else {}
    said = {key: value for key, value in {**said, **values}.items() if value is not None}
    path.write_text(json.dumps(said))


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value.message


def test_a_directory_is_described_as_transformers_describes_it(smollm2_hf: Path) -> None:
    ours, theirs = open_checkpoint(smollm2_hf), AutoModelForCausalLM.from_pretrained(smollm2_hf)
    assert (ours.architecture, ours.family.name, ours.format) == ("LlamaForCausalLM", "llama", "safetensors")
    assert ours.tasks == (Task.GENERATE, Task.SCORE, Task.EMBED)
    assert ours.parameter_count == theirs.num_parameters()
    assert ours.weight_bytes == 4 * theirs.num_parameters()
    config = theirs.config
    assert (ours.context, ours.width, ours.vocab_size) == (
        config.max_position_embeddings, config.hidden_size, config.vocab_size,
    )  # fmt: skip
    assert ours.where == "hf/config.json"
    assert ours.chat_templates[""] == (smollm2_hf / "chat_template.jinja").read_text()
    assert ours.notes == ()


def test_a_gguf_file_is_described_like_the_directory_of_the_same_weights(smollm2_gguf: Path, smollm2_hf: Path) -> None:
    ours, same = open_checkpoint(smollm2_gguf), open_checkpoint(smollm2_hf)
    assert ours.format == "gguf"
    assert ours.config == same.config
    assert ours.chat_templates == same.chat_templates
    assert {name: t.shape for name, t in ours.tensors.items()} == {name: t.shape for name, t in same.tensors.items()}
    assert ours.metadata["tokenizer.ggml.pre"] == "smollm"
    assert ours.files == (smollm2_gguf,)


def test_a_folder_with_one_gguf_file_is_that_file(write_gguf: Write) -> None:
    path = write_gguf("Q8_0")
    assert open_checkpoint(path.parent) == open_checkpoint(path)
    write_gguf("Q8_0", name="other.gguf")
    assert "holds 2 .gguf files; name one of them: other.gguf, tiny.gguf" in refused(path.parent)


def test_opening_takes_milliseconds_and_no_torch(minilm: Path) -> None:
    times = []
    for _ in range(3):
        started = time.process_time()
        open_checkpoint(minilm)
        times.append(time.process_time() - started)
    assert min(times) < 0.05
    code = (
        "import sys; from pathlib import Path; import stretto.engine.checkpoint.headers as h, "
        "stretto.engine.checkpoint.sources, stretto.engine.checkpoint.digest; h.open_checkpoint(Path(sys.argv[1])); "
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(minilm)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == f"{tmp_path / 'gone'} does not exist."
    assert f"{tmp_path} is empty" in refused(tmp_path)
    (tmp_path / "note.txt").write_text("")
    assert refused(tmp_path) == f"{tmp_path} has no config.json; it holds note.txt."
    assert "is a file; a checkpoint is a directory" in refused(tmp_path / "note.txt")
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert "is not a whole BERT configuration: KeyError('vocab_size')" in refused(tmp_path)


@pytest.mark.parametrize("with_config", [True, False])
def test_a_pickle_is_refused_with_a_way_out(bert: Path, with_config: bool) -> None:
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    if not with_config:
        (bert / "config.json").unlink()
    first, second = refused(bert).split("\n")
    assert first == (
        f"{bert} holds only pytorch_model.bin, a pickle: stretto does not load pickles, they can run code."
    )
    assert second.endswith(f'AutoModel.from_pretrained("{bert}").save_pretrained("{bert}-safetensors")')


def test_missing_weights_are_said(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / "weights.safetensors")
    assert "has neither model.safetensors nor model.safetensors.index.json; it holds config.json" in refused(bert)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"architectures": ["FalconH1ForCausalLM"]}, 'says architectures: ["FalconH1ForCausalLM"], which stretto'),
        ({"architectures": None}, "says architectures: 'None'; it should name exactly one"),
        ({"architectures": ["BertModel", "LlamaModel"]}, "it should name exactly one"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config: method 'gptq', which stretto"),
        ({"num_hidden_layers": 10**9}, "says 1,000,000,000 layers; the checkpoint holds 39 tensors"),
        ({"num_hidden_layers": -1}, "says layers -1; stretto takes 1 to"),
        ({"hidden_size": 10**12}, "says hidden_size 1000000000000; stretto takes 1 to 65,536"),
        ({"vocab_size": "many"}, "says vocab_size 'many'; it should be a whole number"),
        ({"vocab_size": float("inf")}, "says vocab_size 'inf'; it should be a whole number"),
        ({"vocab_size": [1]}, "says vocab_size '[1]'; it should be a whole number"),
        ({"num_attention_heads": 0}, "is not a whole bert configuration"),
        ({"max_position_embeddings": 0}, "says context 0"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(bert: Path, values: dict[str, Any], said: str) -> None:
    change(bert / "config.json", **values)
    started = time.process_time()
    assert said in refused(bert)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "bert/config.json is not JSON that stretto can read: Expecting"),
        ("[]", "bert/config.json holds a list; it should hold a JSON object"),
        ('{"a": 1, "a": 2}', "bert/config.json is not JSON that stretto can read: 'a' is there twice"),
        ("[" * 100_000, "bert/config.json is not JSON that stretto can read"),
        ("9" * 5_000, "bert/config.json is not JSON that stretto can read"),
    ],
)
def test_broken_json_is_refused_with_its_file(bert: Path, text: str, said: str) -> None:
    (bert / "config.json").write_text(text)
    assert said in refused(bert)


def test_json_of_any_size_is_not_read(bert: Path) -> None:
    with (bert / "config.json").open("wb") as file:
        file.truncate((1 << 26) + 1)
    assert "bert/config.json has 67,108,865 bytes; the limit is 67,108,864" in refused(bert)


def test_names_without_the_prefix_and_old_spellings_are_read(bert: Path) -> None:
    plain = open_checkpoint(bert)
    weights = load_file(bert / "model.safetensors")
    assert not any(name.startswith("bert.") for name in weights)
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in weights.items()}
    save_file(old, bert / "model.safetensors")
    assert open_checkpoint(bert).tensors.keys() == plain.tensors.keys()
    twice = {"embeddings.LayerNorm.weight": weights["embeddings.LayerNorm.weight"].clone()}
    save_file(old | twice, bert / "model.safetensors")
    assert "holds two tensors that are both 'bert.embeddings.LayerNorm.weight'" in refused(bert)


def test_tensors_that_are_known_to_have_no_use_are_told_apart(bert: Path) -> None:
    opened = open_checkpoint(bert)
    assert opened.unused == ("bert.pooler.dense.bias", "bert.pooler.dense.weight")
    assert not set(opened.unused) & opened.tensors.keys()
    unused = AutoModel.from_pretrained(bert).pooler.dense
    whole = AutoModel.from_pretrained(bert).num_parameters()
    assert opened.parameter_count == whole - unused.weight.numel() - unused.bias.numel()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 500000.0}, {"rope_type": "default", "rope_theta": 500000.0}),
        (
            {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        ),
    ],
)
def test_a_rope_is_read_from_where_old_and_new_files_say_it(llama: Path, old: Any, new: Any) -> None:
    plain = open_checkpoint(llama).config
    change(llama / "config.json", rope_parameters=new)
    told = open_checkpoint(llama).config
    change(llama / "config.json", rope_parameters=None, **old)
    assert open_checkpoint(llama).config == told != plain
    change(llama / "config.json", rope_scaling={"rope_type": "banana"})
    assert "asks for rope type 'banana', which stretto does not have" in refused(llama)


def test_a_head_of_its_own_despite_tying_is_noted(llama: Path) -> None:
    change(llama / "config.json", tie_word_embeddings=True)
    (note,) = open_checkpoint(llama).notes
    assert "llama holds lm_head.weight although its configuration ties it to model.embed_tokens.weight" in note


def test_generation_settings_that_stretto_does_not_do_are_noted(llama: Path) -> None:
    change(llama / "generation_config.json", num_beams=1, top_p=0.9, repetition_penalty=1.1)
    assert open_checkpoint(llama).notes == ()
    change(llama / "generation_config.json", num_beams=4, bad_words_ids=[[3]])
    first, second = open_checkpoint(llama).notes
    assert first == ("llama/generation_config.json asks for num_beams 4, which stretto does not do; it is left out.")
    assert "bad_words_ids [[3]]" in second


def test_code_in_a_checkpoint_is_not_run_and_that_is_noted(llama: Path) -> None:
    change(llama / "config.json", auto_map={"AutoModel": "evil.Model"})
    (note,) = open_checkpoint(llama).notes
    assert "names code of its own (auto_map); stretto runs its own LlamaForCausalLM instead" in note


def test_chat_templates_are_found_wherever_they_are_written(llama: Path) -> None:
    change(llama / "tokenizer_config.json", chat_template="plain")
    assert open_checkpoint(llama).chat_templates == {"": "plain"}
    listed = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    change(llama / "tokenizer_config.json", chat_template=listed)
    assert open_checkpoint(llama).chat_templates == {"": "a", "rag": "b"}
    change(llama / "chat_template.json", chat_template="json")
    assert open_checkpoint(llama).chat_templates == {"": "json", "rag": "b"}
    (llama / "chat_template.jinja").write_text("jinja")
    (llama / "additional_chat_templates").mkdir()
    (llama / "additional_chat_templates" / "tools.jinja").write_text("tools")
    opened = open_checkpoint(llama)
    assert opened.chat_templates == {"": "jinja", "rag": "b", "tools": "tools"}
    assert llama / "additional_chat_templates" / "tools.jinja" in opened.files
    change(llama / "tokenizer_config.json", chat_template=7)
    assert "chat_template should be a text or a list of names and templates" in refused(llama)


def test_gguf_has_named_chat_templates_too(write_gguf: Write) -> None:
    assert open_checkpoint(write_gguf()).chat_templates == {"": "{{ messages }}", "tools": "{{ tools }}"}


@pytest.mark.parametrize("head", [True, False])
def test_a_gguf_file_ties_its_head_where_it_holds_none(write_gguf: Write, head: bool) -> None:
    opened = open_checkpoint(write_gguf(head=head))
    assert opened.raw_config["tie_word_embeddings"] is not head
    assert ("lm_head.weight" in opened.tensors) is head


def edited(path: Path, old: bytes, new: bytes) -> Path:
    """The file with one piece of the same length replaced."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    return path


def test_gguf_of_another_architecture_is_refused(write_gguf: Write) -> None:
    path = edited(write_gguf(), b"llama", b"mamba")
    assert "tiny.gguf says general.architecture: 'mamba', which stretto does not have.\nIt has: bert, llama." in (
        refused(path)
    )


def test_gguf_without_a_key_is_refused_with_the_key(write_gguf: Write) -> None:
    path = edited(write_gguf(), b"llama.block_count", b"llama.black_count")
    assert "tiny.gguf lacks the key 'llama.block_count', which a llama model has" in refused(path)


def with_number(path: Path, key: str, value: int) -> Path:
    """The file with one more key, put first, and another that keeps the tensors where their alignment wants them."""
    data = path.read_bytes()
    added = struct.pack(f"<Q{len(key)}sII", len(key), key.encode(), 4, value)
    fill = 1 + -(len(added) + 14) % 32
    added += struct.pack(f"<Q{fill}sIB", fill, b"p" * fill, 0, 0)
    assert len(added) % 32 == 0
    path.write_bytes(data[:16] + struct.pack("<Q", struct.unpack("<Q", data[16:24])[0] + 2) + added + data[24:])
    return path


def test_gguf_that_is_split_is_refused(write_gguf: Write) -> None:
    assert "is one of 3 parts of a split GGUF" in refused(with_number(write_gguf(), "split.count", 3))


@pytest.mark.parametrize(
    ("value", "pooling"), [(0, None), (1, Pooling.MEAN), (2, Pooling.CLS), (3, Pooling.LAST_TOKEN)]
)
def test_gguf_says_its_pooling(write_gguf: Write, value: int, pooling: Pooling | None) -> None:
    assert open_checkpoint(with_number(write_gguf(), "llama.pooling_type", value)).sentence.pooling is pooling


def test_a_pooling_of_gguf_that_stretto_does_not_know_is_refused(write_gguf: Write) -> None:
    assert "says pooling_type 4" in refused(with_number(write_gguf(), "llama.pooling_type", 4))


def test_a_folder_named_by_dots_has_a_name(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bert)
    assert open_checkpoint(Path()).where == "bert/config.json"


def test_a_copy_has_the_same_files(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "copy")
    names = {file.name for file in open_checkpoint(bert).files}
    assert names == {"config.json", "model.safetensors"}
    assert names == {file.name for file in open_checkpoint(tmp_path / "copy").files}
