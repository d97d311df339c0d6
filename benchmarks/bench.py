"""
Time Stretto's full server (gRPC, tokenizer, sampler) beside transformers and sentence-transformers on the same work.

    .venv/bin/python benchmarks/bench.py                    # all parts, three interleaved rounds
    .venv/bin/python benchmarks/bench.py decode embed-many --rounds 5 --json benchmarks/results.json

Every part is run by Stretto and by its peer in turn, in every round; medians and their ratio are printed. All run in
float32 with the same number of threads. Prompts never repeat, so that nothing comes out of a prefix cache.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from stretto.client import AsyncClient, Client
from stretto.engine.checkpoint.progress import Silent
from stretto.engine.checkpoint.sources import cache_folder, resolve

GENERATOR, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
]
FRESH = count()


def fresh_text(words: int) -> str:
    """A text that no run has seen: a number, then words."""
    start = next(FRESH)
    return f"{start}: " + " ".join(WORDS[(start + i * (1 + start % 7)) % len(WORDS)] for i in range(words))


@dataclass(frozen=True)
class Part:
    """One measurement: what a run returns, in `unit`, by Stretto and by the peer."""

    name: str
    unit: str
    larger_is_better: bool
    peer: str
    ours: Callable[[], float]
    theirs: Callable[[], float]


@contextmanager
def server(threads: int) -> Iterator[str]:
    """A real server of its own process, with the two models in float32; yields its address."""
    command = [
        *(str(Path(sysconfig.get_path("scripts")) / "stretto"), "serve", GENERATOR, EMBEDDER, "--dtype", "float32"),
        *("--threads", str(threads), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
        *("--log-format", "json"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        target = ""
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            target = event["grpc"] if event.get("event") == "listening" else target
            if event.get("event") == "serving":
                break
        reader = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield target
        finally:
            process.terminate()
            process.wait()
            reader.wait()


class Ours:
    """The measurements through the server."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._client = Client(target, timeout=600)

    def decode(self) -> float:
        """Tokens a second of one stream, after the first token."""
        stamps = []
        for piece in self._client.stream(fresh_text(20), max_tokens=65, ignore_eos=True, temperature=0):
            stamps += [time.perf_counter()] * len(piece.token_ids)
        return (len(stamps) - 1) / (stamps[-1] - stamps[0])

    def first_token(self) -> float:
        """Milliseconds to the first token of a prompt of about 128."""
        begun = time.perf_counter()
        for _ in self._client.stream(fresh_text(124), max_tokens=1, ignore_eos=True, temperature=0):
            break
        return 1000 * (time.perf_counter() - begun)

    def crowd(self) -> float:
        """Output tokens a second of 16 requests at once."""

        async def all_at_once() -> float:
            async with AsyncClient(self._target, timeout=600) as client:
                asked = [fresh_text(60) for _ in range(16)]
                begun = time.perf_counter()
                answers = await asyncio.gather(
                    *(client.generate(text, max_tokens=32, ignore_eos=True, temperature=0) for text in asked)
                )
                return sum(a.usage.completion_tokens for a in answers) / (time.perf_counter() - begun)

        return asyncio.run(all_at_once())

    def embed_one(self) -> float:
        """Milliseconds for one short text."""
        begun = time.perf_counter()
        self._client.embed([fresh_text(10)])
        return 1000 * (time.perf_counter() - begun)

    def embed_many(self) -> float:
        """Texts a second of 256 texts of 5 to 100 words."""
        texts = [fresh_text(5 + i % 96) for i in range(256)]
        begun = time.perf_counter()
        self._client.embed(texts)
        return len(texts) / (time.perf_counter() - begun)


class Theirs:
    """The same by transformers and sentence-transformers, in this process."""

    def __init__(self, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        torch.set_num_threads(threads)
        cache = cache_folder(os.environ)
        gguf = resolve(GENERATOR, cache=cache, progress=Silent(), origins=("package",))
        self._tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        with torch.device("meta"):  # the names of the tensors depend on the number of layers only
            named = LlamaForCausalLM(LlamaConfig(num_hidden_layers=30))
        read = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=named, torch_dtype=torch.float32)
        self._model = LlamaForCausalLM(LlamaConfig(**read["config"])).eval()
        self._model.load_state_dict(read["tensors"], strict=False)  # the head is tied
        self._model.tie_weights()
        minilm = resolve(EMBEDDER, cache=cache, progress=Silent(), origins=("package",))
        self._embedder = SentenceTransformer(str(minilm), device="cpu")

    def _generate(self, texts: list[str], tokens: int) -> float:
        """Seconds for `tokens` new tokens of each text, padded into one batch."""
        self._tokenizer.padding_side = "left"
        begun = time.perf_counter()
        rows = self._tokenizer(texts, return_tensors="pt", padding=True)
        self._model.generate(**rows, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return time.perf_counter() - begun

    def decode(self) -> float:
        text = [fresh_text(20)]
        return 64 / (self._generate(text, 65) - self._generate(text, 1))

    def first_token(self) -> float:
        return 1000 * self._generate([fresh_text(124)], 1)

    def crowd(self) -> float:
        return 16 * 32 / self._generate([fresh_text(60) for _ in range(16)], 32)

    def embed_one(self) -> float:
        begun = time.perf_counter()
        self._embedder.encode([fresh_text(10)])
        return 1000 * (time.perf_counter() - begun)

    def embed_many(self) -> float:
        texts = [fresh_text(5 + i % 96) for i in range(256)]
        begun = time.perf_counter()
        self._embedder.encode(texts, batch_size=32)
        return len(texts) / (time.perf_counter() - begun)


def parts(ours: Ours, theirs: Theirs) -> list[Part]:
    hf, st = "transformers", "sentence-transformers"
    return [
        Part("decode", "tokens/s", True, hf, ours.decode, theirs.decode),
        Part("first-token", "ms", False, hf, ours.first_token, theirs.first_token),
        Part("crowd", "tokens/s", True, hf, ours.crowd, theirs.crowd),
        Part("embed-one", "ms", False, st, ours.embed_one, theirs.embed_one),
        Part("embed-many", "texts/s", True, st, ours.embed_many, theirs.embed_many),
    ]


def main() -> None:
    names = ["decode", "first-token", "crowd", "embed-one", "embed-many"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(names)}; default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="also write every figure there")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(names):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    theirs = Theirs(arguments.threads)
    with server(arguments.threads) as target:
        chosen = [p for p in parts(Ours(target), theirs) if not arguments.parts or p.name in arguments.parts]
        figures: dict[str, dict[str, list[float]]] = {p.name: {"ours": [], "theirs": []} for p in chosen}
        for part in chosen:
            part.ours(), part.theirs()  # warm both up
        for round_ in range(arguments.rounds):
            for part in chosen:
                print(f"round {round_ + 1} of {arguments.rounds}: {part.name}", file=sys.stderr)
                figures[part.name]["ours"].append(part.ours())
                figures[part.name]["theirs"].append(part.theirs())
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads, float32, "
        f"medians of {arguments.rounds}, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':12} {'stretto':>10} {'peer':>10} {'ratio':>6}")
    for part in chosen:
        mine, other = (statistics.median(figures[part.name][who]) for who in ("ours", "theirs"))
        ratio = mine / other if part.larger_is_better else other / mine
        print(f"{part.name:12} {mine:10.1f} {other:10.1f} {ratio:5.2f}x  {part.unit}, {part.peer}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
