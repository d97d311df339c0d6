"""The configuration of a checkpoint, read by its family and kept within what is possible. No torch."""

from collections.abc import Mapping
from typing import Any

from stretto.engine.checkpoint.gguf import GGUFFile
from stretto.engine.errors import CheckpointError
from stretto.engine.families.registry import FAMILIES, Config, Family, family_of
from stretto.engine.requests import Pooling

# Of the hidden states and of one head; it also bounds what a wrong file can make the rope tables cost.
MAX_WIDTH = 65_536
MAX_SIZE = 1 << 31
MAX_CONTEXT = 1 << 24
# What a config.json may say by these names, where it says anything: families read it with int() and bool(), which
# would make something of "96", of 2.5 and of "no".
WHOLE_NUMBERS = (
    "vocab_size",
    "hidden_size",
    "head_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias", "is_decoder")
GGUF_POOLING = {0: None, 1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST_TOKEN}
# generation_config.json: what stretto does not do, with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "encoder_repetition_penalty": (1, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "diversity_penalty": (0, None),
    "penalty_alpha": (0, None),
    "top_h": (None,),
    "epsilon_cutoff": (0, None),
    "eta_cutoff": (0, None),
    "guidance_scale": (1, None),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "bad_words_ids": (None, []),
    "force_words_ids": (None, []),
    "constraints": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "stop_strings": (None, []),
    "watermarking_config": (None,),
}


def read_config(raw: Mapping[str, Any], where: str) -> tuple[str, Family, Config]:
    """The architecture, its family and the family's reading of a config.json."""
    architecture = _architecture(raw.get("architectures"), where)
    family = family_of(architecture, where)
    quantization = raw.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "unnamed") if isinstance(quantization, dict) else quantization
        raise CheckpointError(
            f"{where} says quantization_config: method {str(method)[:100]!r}, which stretto does not read.\n"
            "It reads F32, F16 and BF16 from safetensors, and also Q8_0, Q4_0 and Q4_1 from GGUF."
        )
    return architecture, family, _read(family, raw, where)


def read_gguf_config(file: GGUFFile, where: str) -> tuple[str, Family, Config, dict[str, Any]]:
    """The same from a GGUF file's metadata, with the config.json that it amounts to."""
    said = file.metadata.get("general.architecture")
    family = next((family for family in FAMILIES if family.name == said), None)
    if family is None:
        known = ", ".join(sorted(family.name for family in FAMILIES))
        raise CheckpointError(
            f"{where} says general.architecture: {str(said)[:100]!r}, which stretto does not have.\nIt has: {known}."
        )
    parts = file.metadata.get("split.count", 1)
    if parts != 1:
        raise CheckpointError(
            f"{where} is one of {parts} parts of a split GGUF; stretto reads whole ones. Merge them first."
        )
    try:
        raw = family.gguf_config(file.metadata)
    except KeyError as error:
        raise CheckpointError(f"{where} lacks the key {error}, which a {family.name} model has.") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: its {family.name}.* keys do not describe such a model: {error}.") from error
    if "tie_word_embeddings" in raw:
        raw["tie_word_embeddings"] = "output.weight" not in file.tensors
    return raw["architectures"][0], family, _read(family, raw, where), raw


def check_layers(config: Config, num_tensors: int, where: str) -> None:
    """Refuse more layers than tensors, before anything makes a name for each layer."""
    if config.layers > num_tensors:
        raise CheckpointError(f"{where} says {config.layers:,} layers; the checkpoint holds {num_tensors:,} tensors.")


def gguf_pooling(metadata: Mapping[str, Any], where: str) -> Pooling | None:
    said = metadata.get(f"{metadata['general.architecture']}.pooling_type", 0)
    if said not in GGUF_POOLING:
        raise CheckpointError(f"{where} says pooling_type {str(said)[:50]}; known: 0 none, 1 mean, 2 cls, 3 last.")
    return GGUF_POOLING[said]


def generation_notes(generation: Mapping[str, Any], where: str) -> list[str]:
    """What generation_config.json asks for and stretto does not do."""
    return [
        f"{where} asks for {key} {str(generation[key])[:100]}, which stretto does not do; it is left out."
        for key, neutral in UNSUPPORTED.items()
        if key in generation and generation[key] not in neutral
    ]


def _architecture(said: Any, where: str) -> str:
    """The one class that config.json names; which classes there are is not known yet."""
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], str) and said[0].isidentifier():
        return said[0]
    raise CheckpointError(f"{where} says architectures: {str(said)[:200]!r}; it should name exactly one.")


def _read(family: Family, raw: Mapping[str, Any], where: str) -> Config:
    for keys, kind, called in ((WHOLE_NUMBERS, int, "a whole number"), (SWITCHES, bool, "true or false")):
        for key in keys:
            if raw.get(key) is not None and type(raw[key]) is not kind:
                raise CheckpointError(f"{where} says {key} {str(raw[key])[:50]!r}; it should be {called}.")
    for key in ("hidden_size", "head_dim"):
        if raw.get(key) is not None and not 0 < raw[key] <= MAX_WIDTH:
            raise CheckpointError(f"{where} says {key} {str(raw[key])[:50]}; stretto takes 1 to {MAX_WIDTH:,}.")
    for key in ("rms_norm_eps", "layer_norm_eps"):
        value = raw.get(key)
        if value is not None and not (isinstance(value, int | float) and 0 <= value < 1):
            raise CheckpointError(f"{where} says {key} {str(value)[:50]!r}; it should be a number in [0, 1).")
    try:
        config = family.read(raw, where)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{where} is not a whole {family.name} configuration: {error!r}.") from error
    for name in ("vocab_size", "context", "width", "layers", "heads", "mlp_width"):
        value, most = getattr(config, name), MAX_CONTEXT if name == "context" else MAX_SIZE
        if not 0 < value <= most:
            raise CheckpointError(f"{where} says {name} {str(value)[:50]}; stretto takes 1 to {most:,}.")
    return config
