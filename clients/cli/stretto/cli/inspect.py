"""`stretto inspect`: what a checkpoint is, from its files alone; nothing is loaded and no server is asked."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.cli.sizes import byte_size, count

if TYPE_CHECKING:
    from stretto.engine.checkpoint.headers import Checkpoint

EXAMPLES = """\
examples:
  stretto inspect smollm2-135m-instruct       a name of the catalogue that was fetched before
  stretto inspect ./my-model                  a directory with config.json and model.safetensors
  stretto inspect model.gguf --json | jq .files
"""
# Bytes that one parameter takes in memory.
PARAMETER_BYTES = {"float32": 4.0, "bfloat16": 2.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show what a checkpoint is: architecture, tasks, sizes, files and hashes."
    parser.epilog = EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="a directory, a .gguf file, or a name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-hashes", action="store_true", help="do not read the weights to hash them")


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.local_source import local_path
    from stretto.engine.checkpoint.headers import open_checkpoint

    facts = described(open_checkpoint(local_path(arguments.model)), hashes=not arguments.no_hashes)
    print(json.dumps(facts, ensure_ascii=False) if arguments.json else "\n".join(shown(facts)))
    return 0


def described(checkpoint: "Checkpoint", *, hashes: bool) -> dict[str, Any]:
    """What is known of a checkpoint, under the names of the wire format's Model where it has them."""
    from stretto.engine.checkpoint.digest import sha256_of, version_of

    parameters, sentence = checkpoint.parameter_count, checkpoint.sentence
    return {
        "source": str(checkpoint.path),
        "format": checkpoint.format,
        "version": version_of(checkpoint) if hashes else None,
        "architecture": checkpoint.architecture,
        "tasks": [task.value for task in checkpoint.tasks],
        "parameter_count": parameters,
        "vocab_size": checkpoint.vocab_size,
        "max_input_tokens": sentence.max_tokens or checkpoint.context,
        "context_tokens": checkpoint.context,
        "width": checkpoint.width,
        "dtypes": sorted({tensor.dtype for tensor in checkpoint.tensors.values()}),
        "weight_bytes": checkpoint.weight_bytes,
        "memory_bytes": {
            "as stored": checkpoint.weight_bytes,
            **{dtype: int(parameters * size) for dtype, size in PARAMETER_BYTES.items()},
        },
        "default_pooling": sentence.pooling.value if sentence.pooling else None,
        "default_normalize": sentence.normalize,
        "prompts": dict(sentence.prompts),
        "chat_templates": sorted(checkpoint.chat_templates),
        "files": [
            {
                "path": _name(file, checkpoint.path),
                "bytes": file.stat().st_size,
                "sha256": sha256_of(file) if hashes else None,
            }
            for file in checkpoint.files
        ],
        "unused_tensors": list(checkpoint.unused),
        "notes": list(checkpoint.notes),
    }


def shown(facts: dict[str, Any]) -> list[str]:
    """The same for people, one fact a line."""
    templates = ", ".join(name or "default" for name in facts["chat_templates"]) or "no"
    parameters = facts["parameter_count"]
    memory = ", ".join(f"{dtype} {byte_size(size)}" for dtype, size in facts["memory_bytes"].items())
    lines = [
        facts["source"],
        f"  architecture    {facts['architecture']} ({facts['format']})",
        f"  tasks           {' '.join(facts['tasks'])}",
        f"  parameters      {count(parameters)} ({parameters:,}), {', '.join(facts['dtypes'])}",
        f"  memory          {memory}",
        f"  context         {facts['context_tokens']} tokens, reads {facts['max_input_tokens']}",
        f"  vocabulary      {facts['vocab_size']} tokens",
        f"  width           {facts['width']}",
        f"  chat template   {templates}",
    ]
    if facts["default_pooling"] is not None:
        normalize = {True: "normalised", False: "not normalised", None: "normalisation not said"}
        lines.append(f"  pooling         {facts['default_pooling']}, {normalize[facts['default_normalize']]}")
    for name, prompt in facts["prompts"].items():
        lines.append(f"  prompt          {name}: {prompt!r}")
    lines.append(f"  version         {facts['version'] or 'not computed'}")
    for file in facts["files"]:
        lines.append(f"  file            {file['path']}  {byte_size(file['bytes'])}  {file['sha256'] or ''}".rstrip())
    if facts["unused_tensors"]:
        lines.append(f"  not used        {', '.join(facts['unused_tensors'])}")
    lines += [f"  note            {note}" for note in facts["notes"]]
    return lines


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if root.is_dir() else file.name
