"""The real models that tests share, out of Stretto's own cache; without its model a test fails, it never skips."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stretto.engine.checkpoint.progress import Silent
from stretto.engine.checkpoint.sources import cache_folder, resolve

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, Q4_1: the package's, whatever the hub would have."""
    cache = cache_folder(os.environ)
    return resolve("smollm2-135m-instruct", cache=cache, progress=Silent(), origins=("package",))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, a sentence-transformers directory."""
    cache = cache_folder(os.environ)
    return resolve("all-minilm-l6-v2", cache=cache, progress=Silent(), origins=("package",))


@pytest.fixture(scope="session")
def smollm2_hf(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same weights as a Hugging Face directory in float32, made by transformers' own reading of the GGUF file."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    # The names of the tensors depend on the number of layers only; the rest of the configuration comes with them.
    with torch.device("meta"):
        named = LlamaForCausalLM(LlamaConfig(num_hidden_layers=30))
    read = load_gguf_checkpoint(str(smollm2_gguf), return_tensors=True, model_to_load=named, torch_dtype=torch.float32)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**read["config"]))
    lost = model.load_state_dict(read["tensors"], assign=True, strict=False)
    assert lost.missing_keys == ["lm_head.weight"]
    assert not lost.unexpected_keys
    model.tie_weights()
    folder = tmp_path_factory.mktemp("smollm2") / "hf"
    model.save_pretrained(folder)
    said = read["tokenizer"]
    special = {f"{role}_token": said["tokens"][said[f"{role}_token_id"]] for role in ("bos", "eos", "pad", "unk")}
    PreTrainedTokenizerFast(
        tokenizer_object=_smollm_tokenizer(said),
        chat_template=read["tokenizer_config"]["chat_template"],
        **special,
    ).save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)  # half a gigabyte, which pytest would keep for three runs


def _smollm_tokenizer(said: dict[str, Any]) -> "Tokenizer":
    """Byte-level BPE that cuts numbers into digits first, as SmolLM2's published tokenizer.json says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    control = 3
    merges = [tuple(merge.split(" ")) for merge in said["merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(said["tokens"])}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(said["tokens"], said["token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, kind in kinds if kind == control])
    return tokenizer


@pytest.fixture(scope="session")
def smollm2_sharded(smollm2_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same again, in several files with an index."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("smollm2") / "sharded"
    AutoModelForCausalLM.from_pretrained(smollm2_hf).save_pretrained(folder, max_shard_size="150MB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2_hf / name, folder / name)
    yield folder
    shutil.rmtree(folder)  # half a gigabyte, which pytest would keep for three runs
