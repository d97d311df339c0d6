"""Which loaded model a request means, where it may leave the name out."""

from stretto.engine.core import Engine
from stretto.engine.errors import ModelNotFound
from stretto.engine.requests import Task
from stretto.engine.results import ModelCard


def chosen(engine: Engine, name: str, task: Task) -> ModelCard:
    """The model of that name; for no name, the only one whose first task it is, or else the only one that can."""
    if name:
        return engine.card(name)
    able = [card for card in engine.cards() if card.tasks[:1] == (task,)]
    able = able or [card for card in engine.cards() if task in card.tasks]
    if not able:
        raise ModelNotFound(f"no model that can {task} is loaded.", field="model")
    if len(able) > 1:
        names = ", ".join(card.name for card in able)
        raise ModelNotFound(f"model is empty, and {len(able)} models can {task}: {names}. Name one.", field="model")
    return able[0]


def the_only(engine: Engine, name: str) -> ModelCard:
    """The model of that name, whatever it can; for no name, the only one that is loaded."""
    if name:
        return engine.card(name)
    cards = engine.cards()
    if len(cards) != 1:
        names = ", ".join(card.name for card in cards)
        raise ModelNotFound(f"model is empty, and {len(cards)} models are loaded: {names}. Name one.", field="model")
    return cards[0]
