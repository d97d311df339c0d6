"""Proves that what --print-config prints is a configuration file that says the same again, whatever was set."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.server.config import described, load
from stretto.server.settings import SETTINGS

NAMES = st.text(st.characters(codec="utf-8"), min_size=1)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "models": st.lists(NAMES, min_size=1, max_size=3),
        "step_budget_ms": st.floats(1, 10_000),
        "grace_seconds": st.floats(0, 86_400),
        "cache_memory": st.integers(0, 2**50),
        "log_prompts": st.booleans(),
        "insecure": st.booleans(),
        "log_format": st.sampled_from(["human", "json"]),
    },
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "stretto.toml"


@given(given_=GIVEN)
def test_what_is_printed_is_a_file_of_the_same_settings(file: Path, given_: dict[str, object]) -> None:
    settings = load(given_, {}, None)
    lines = [f"{name} = {value}  # {origin}" for name, value, origin in described(settings)]
    file.write_text("\n".join(lines), newline="")
    again = load({}, {}, file)
    names = [setting.name for setting in SETTINGS]
    assert {name: getattr(again, name) for name in names} == {name: getattr(settings, name) for name in names}
    assert set(again.origins.values()) == {f"{file}:{number}" for number in range(1, len(names) + 1)}
