"""Proves which model answers a request that names none."""

from dataclasses import replace

import pytest

from stretto.engine.errors import ModelNotFound
from stretto.engine.requests import Task
from stretto.server.choice import chosen, the_only


class Cards:
    """As much of an engine as is asked here: models by name with their tasks, the main one first."""

    def __init__(self, card, **tasks):
        self._cards = {name: replace(card, name=name, tasks=does) for name, does in tasks.items()}

    def cards(self):
        return list(self._cards.values())

    def card(self, name):
        return self._cards[name]


GENERATE, EMBED = (Task.GENERATE,), (Task.EMBED,)
BOTH = (Task.GENERATE, Task.EMBED)


@pytest.mark.parametrize(
    ("tasks", "task", "expected"),
    [
        ({"a": GENERATE, "b": EMBED}, Task.EMBED, "b"),
        ({"a": BOTH, "b": EMBED}, Task.EMBED, "b"),
        ({"a": BOTH, "b": EMBED}, Task.GENERATE, "a"),
        ({"a": BOTH}, Task.EMBED, "a"),
        ({"a": BOTH, "b": GENERATE}, Task.EMBED, "a"),
        ({"a": GENERATE, "b": GENERATE}, Task.GENERATE, None),
        ({"a": BOTH, "b": BOTH}, Task.EMBED, None),
        ({"a": GENERATE}, Task.EMBED, None),
    ],
)
async def test_no_name_means_the_only_model_made_for_it_or_else_the_only_one_that_can(running, tasks, task, expected):
    engine = Cards(running.engine.card("writer"), **tasks)
    if expected is None:
        with pytest.raises(ModelNotFound, match=f"can {task}"):
            chosen(engine, "", task)
    else:
        assert chosen(engine, "", task).name == expected


async def test_a_name_means_that_model_whatever_it_can(running):
    assert chosen(Cards(running.engine.card("writer"), a=EMBED, b=GENERATE), "a", Task.GENERATE).name == "a"


async def test_what_needs_no_task_means_the_only_model_there_is(running):
    card = running.engine.card("writer")
    assert the_only(Cards(card, a=EMBED), "").name == "a"
    assert the_only(Cards(card, a=EMBED, b=GENERATE), "b").name == "b"
    with pytest.raises(ModelNotFound, match=r"2 models are loaded: a, b\. Name one\."):
        the_only(Cards(card, a=EMBED, b=GENERATE), "")
