"""The catalogue as `stretto models --catalogue` shows it."""

import os
from dataclasses import asdict

from stretto.cli.jsonlines import print_object
from stretto.cli.sizes import byte_size
from stretto.cli.tables import aligned
from stretto.engine.checkpoint.catalogue import CATALOGUE, CatalogueModel
from stretto.engine.checkpoint.origin import folder_of
from stretto.engine.checkpoint.sources import EITHER, cache_folder


def print_catalogue(*, as_json: bool) -> int:
    if as_json:
        for model in CATALOGUE:
            print_object({**asdict(model), "num_bytes": model.num_bytes, "fetched": _fetched(model)})
        return 0
    head = ("name", "tasks", "size", "licence", "fetched", "what")
    rows = [
        (
            model.name,
            " ".join(model.tasks),
            byte_size(model.num_bytes),
            model.licence,
            " ".join(_fetched(model)) or "no",
            model.what,
        )
        for model in CATALOGUE
    ]
    print(aligned([head, *rows]))
    return 0


def _fetched(model: CatalogueModel) -> list[str]:
    """The origins that are in the cache; whether they are unchanged is looked at when they are used."""
    return [kind for kind in EITHER if folder_of(cache_folder(os.environ), model, kind).is_dir()]
