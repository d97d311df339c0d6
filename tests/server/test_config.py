"""Proves where settings come from, in which order, and that every mistake is told at once with its place."""

import tomllib
from dataclasses import FrozenInstanceError

import pytest

from stretto.server.config import ConfigError, described, load
from stretto.server.quantities import Address
from stretto.server.settings import SETTINGS


def problems(flags=None, environment=None, file=None):
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environment or {}, file)
    return caught.value.problems


@pytest.fixture
def toml(tmp_path):
    def written(text):
        path = tmp_path / "stretto.toml"
        path.write_text(text)
        return path

    return written


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(toml):
    file = toml("\nthreads = 1\nmax_inputs = 1\nmax_sequences = 1\n")
    environment = {"STRETTO_MAX_INPUTS": "2", "STRETTO_MAX_SEQUENCES": "2", "PATH": "/bin"}
    settings = load({"max_sequences": "3", "listen": None}, environment, file)
    assert (settings.threads, settings.max_inputs, settings.max_sequences) == (1, 2, 3)
    assert settings.origins["threads"] == f"{file}:2"
    assert settings.origins["max_inputs"] == "STRETTO_MAX_INPUTS"
    assert settings.origins["max_sequences"] == "--max-sequences"
    assert settings.origins["listen"] == "default"
    assert settings.listen == Address("127.0.0.1", 50051)


def test_a_file_may_use_values_of_its_own_types(toml):
    text = 'models = ["a", "b=c"]\ninsecure = true\nstep_budget_ms = 12.5\ncache_memory = 1000\nlisten = "[::]:1"\n'
    settings = load({}, {}, toml(text))
    assert settings.models == ("a", "b=c")
    assert settings.insecure is True
    assert settings.limits().step_budget_seconds == 0.0125
    assert settings.cache_memory == 1000
    assert settings.listen == Address("::", 1)


def test_every_mistake_is_told_at_once_with_its_place(toml):
    file = toml('quantise = "int8"\n[queue]\nx = 1\n')
    found = problems({"threads": "-1"}, {"STRETTO_LISTEN": "here", "STRETTO_THREAD": "1"}, file)
    assert len(found) == 5
    told = "\n".join(found)
    assert f"{file}:1: there is no setting 'quantise'. Did you mean quantize?" in told
    assert f"{file}:2: there is no setting 'queue'." in told
    assert "STRETTO_THREAD: there is no such setting. Did you mean STRETTO_THREADS?" in told
    assert "STRETTO_LISTEN: listen must be host:port" in told
    assert "--threads: threads must be a whole number from 0 to 1024; got '-1'." in told


@pytest.mark.parametrize("text", ["threads = ", "threads = 1\nthreads = 2\n"])
def test_a_file_that_is_not_toml_is_named(toml, text):
    assert "is not TOML" in problems(file=toml(text))[0]


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert "nowhere.toml: cannot be read" in problems(file=tmp_path / "nowhere.toml")[0]


def test_variables_of_other_parts_are_no_mistakes():
    load({}, {"STRETTO_TARGET": "x", "STRETTO_CACHE": "y"}, None)


@pytest.mark.parametrize("name", ["listen", "metrics_listen"])
@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1"])
def test_an_address_that_others_reach_must_be_meant(name, address):
    (told,) = problems({name: address})
    assert "can be reached from other machines" in told
    assert "--insecure" in told
    assert str(getattr(load({name: address, "insecure": "true"}, {}, None), name)) == address


@pytest.mark.parametrize("secured", [{"token_file": "t"}, {"tls_cert": "c", "tls_key": "k"}])
def test_tls_or_a_token_opens_the_address_of_grpc_and_not_that_of_the_metrics(secured):
    assert str(load({"listen": "0.0.0.0:1"} | secured, {}, None).listen) == "0.0.0.0:1"
    (told,) = problems({"metrics_listen": "0.0.0.0:1"} | secured)
    assert "--metrics-listen has neither TLS nor tokens" in told


def test_what_opens_an_address_is_said_where_it_is_refused():
    assert problems({"listen": "0.0.0.0:50051"}) == [
        "0.0.0.0 can be reached from other machines, and neither TLS nor a token is set.\n"
        "Set --tls-cert/--tls-key or --token-file, or say --insecure if you mean it."
    ]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:65535", "localhost:80", "127.8.8.8:1"])
def test_an_address_of_this_machine_needs_no_word(address):
    assert str(load({"listen": address}, {}, None).listen) == address


@pytest.mark.parametrize(
    ("written", "num_bytes"),
    [
        ("0", 0),
        ("450MB", 450_000_000),
        ("2GiB", 2 * 1024**3),
        ("1.5 kB", 1500),
        ("1 k", None),
        ("1.5KB", 1500),
        ("1KiB", 1024),
    ],
)
def test_sizes_are_decimal_or_binary_as_they_are_written(written, num_bytes):
    if num_bytes is None:
        assert problems({"cache_memory": written})
    else:
        assert load({"cache_memory": written}, {}, None).cache_memory == num_bytes


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(
            (name, bad)
            for name in ("listen", "metrics_listen")
            for bad in ("", "a", "a:b", "a:99999", ":1", 5, "::1:5")
        ),
        *(("cache_memory", bad) for bad in ("-1", "1XB", "MB", True, 1.5, "1e9")),
        *(("threads", bad) for bad in ("1.5", "x", True, 2.0, "1025", "")),
        *(("step_budget_ms", bad) for bad in ("nan", "inf", "0", "-1", True, "x")),
        *(("tls_cert", bad) for bad in (1, True, "a\0b", [])),
        *(("client_streams", bad) for bad in ("-1", "x", 1.5)),
        *(("client_token_rate", bad) for bad in ("-1", "nan", "inf")),
        *(("models", bad) for bad in ("", [], [1], 5)),
        *(("insecure", bad) for bad in ("yes", 1, "")),
        *(("device", bad) for bad in ("gpu", "cuda:x", "")),
        *(("quantize", bad) for bad in ("int8", "int4", "")),
        *(("dtype", bad) for bad in ("float64", 16)),
    ],
)
def test_a_bad_value_is_refused_with_what_is_taken(name, bad):
    (told,) = problems({name: bad})
    assert f"{name} must be" in told
    assert repr(bad) in told


def test_what_is_printed_reads_back_as_the_same_settings(toml):
    settings = load({"cache_memory": "2GiB", "models": ['a"b', "c\\d"], "step_budget_ms": "12.625"}, {}, None)
    text = "\n".join(f"{name} = {value}  # {origin}" for name, value, origin in described(settings))
    assert set(tomllib.loads(text)) == {setting.name for setting in SETTINGS}
    again = load({}, {}, toml(text))
    for setting in SETTINGS:
        assert getattr(again, setting.name) == getattr(settings, setting.name)


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        load({}, {}, None).threads = 3
