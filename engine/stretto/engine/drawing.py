"""What a call wishes of the draw, and what the checkpoint says of it, becomes what the engine is told. No torch."""

import secrets
from collections.abc import Mapping

from stretto.engine.bounds import check_ids
from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.errors import CheckpointError, InvalidRequest
from stretto.engine.messages import Draw, Generate
from stretto.engine.sampling import Sampling
from stretto.engine.text.tokenizer import Tokenizer

# Of generation_config.json, what stretto does, and what it comes to where nobody says anything.
NEUTRAL: Mapping[str, int | float] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
WHOLE = ("top_k", "no_repeat_ngram_size")
MAX_NUMBER = (1 << 32) - 1  # in generation_config.json; a request can't say more either


def sampling_defaults(checkpoint: Checkpoint) -> Mapping[str, int | float]:
    """What a request that says nothing comes to; raises CheckpointError for what no request could ask for either."""
    said, where = checkpoint.generation, f"{checkpoint.path}: generation_config.json"
    numbers = {name: said[name] for name in NEUTRAL if said.get(name) is not None}
    sample = said.get("do_sample")
    if not isinstance(sample, bool | None):
        raise CheckpointError(f"{where} says do_sample {str(sample)[:50]!r}; it should be true or false.")
    if sample is False:
        numbers["temperature"] = 0.0
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_NUMBER:
            raise CheckpointError(f"{where} says {name} {str(value)[:50]!r}, which is no number that can be meant.")
        if name in WHOLE and not float(value).is_integer():
            raise CheckpointError(f"{where} says {name} {value}, which is no whole number.")
    try:
        Sampling(**numbers)
    except InvalidRequest as error:
        raise CheckpointError(f"{where} asks for what cannot be done: {error.message}") from error
    return {**NEUTRAL, **{name: int(value) if name in WHOLE else float(value) for name, value in numbers.items()}}


def decided(sampling: Sampling, defaults: Mapping[str, int | float], tokenizer: Tokenizer, limit_ids: int) -> Draw:
    """Every wish decided: the call's, else the checkpoint's. Without a seed one is made up."""
    for name in ("logit_bias", "allowed_token_ids", "banned_token_ids"):
        check_ids(tuple(getattr(sampling, name)), limit_ids, f"config.sampling.{name}")
    runs = _banned_runs(sampling.banned_strings, tokenizer)
    wishes = {name: getattr(sampling, name) for name in NEUTRAL}
    numbers = {name: float(defaults[name] if wish is None else wish) for name, wish in wishes.items()}
    return Draw(
        temperature=numbers["temperature"],
        top_k=int(numbers["top_k"]),
        top_p=numbers["top_p"],
        min_p=numbers["min_p"],
        typical_p=numbers["typical_p"],
        repetition=numbers["repetition_penalty"],
        presence=sampling.presence_penalty or 0.0,
        frequency=sampling.frequency_penalty or 0.0,
        window=sampling.penalty_window,
        no_repeat_ngram=int(numbers["no_repeat_ngram_size"]),
        bias=dict(sampling.logit_bias),
        allowed=list(sampling.allowed_token_ids),
        banned=[*sampling.banned_token_ids, *(run[0] for run in runs if len(run) == 1)],
        banned_runs=[run for run in runs if len(run) > 1],
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
    )


def check_choice(message: Generate) -> None:
    """Refuse a list of allowed ids of which nothing is left; what comes to that later ends the request then."""
    path, draw = "config.sampling.allowed_token_ids", message.draw
    left = set(draw.allowed) - set(draw.banned)
    if draw.allowed and not left:
        raise InvalidRequest(f"{path} allows {len(draw.allowed)} ids, and config.sampling bans them all.", field=path)
    if draw.allowed and message.min_tokens and left <= set(message.stop_ids):
        raise InvalidRequest(
            f"{path} allows end and stop tokens only, which config.stopping.min_tokens, {message.min_tokens}, bans.",
            field=path,
        )


def _banned_runs(strings: tuple[str, ...], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each string as it stands inside a text, with and without a space before it."""
    runs = tokenizer.encode_inner([way for text in strings for way in (text, " " + text)]) if strings else []
    for text, run in zip(strings, runs[::2], strict=True):
        if not run:
            path = "config.sampling.banned_strings"
            raise InvalidRequest(f"{path} holds {text!r}, which makes no tokens.", field=path)
    return runs
