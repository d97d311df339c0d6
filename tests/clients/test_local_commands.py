"""Proves the commands that need no server: inspect, pull, models --catalogue, and how serve refuses to start."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest


def test_inspect_shows_a_checkpoint_offline(stretto, minilm: Path) -> None:
    ran = stretto("inspect", str(minilm), "--json")
    facts = json.loads(ran.stdout)
    config = json.loads((minilm / "config.json").read_text())
    assert facts["architecture"] == config["architectures"][0]
    assert (facts["width"], facts["vocab_size"]) == (config["hidden_size"], config["vocab_size"])
    assert (facts["default_pooling"], facts["tasks"], facts["chat_templates"]) == ("mean", ["embed"], [])
    sums = subprocess.run(
        ["sha256sum", *(str(minilm / file["path"]) for file in facts["files"])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [file["sha256"] for file in facts["files"]] == [line.split()[0] for line in sums.stdout.splitlines()]
    assert "pooling         mean" in stretto("inspect", str(minilm), "--no-hashes").stdout


def test_inspect_fetches_nothing(stretto, tmp_path: Path) -> None:
    ran = stretto("inspect", "all-minilm-l6-v2", variables={"STRETTO_CACHE": str(tmp_path)})
    assert ran.returncode == 1
    assert ran.stderr == (
        "error: all-minilm-l6-v2 is not on this machine; inspect fetches nothing.\n"
        "       Fetch it:  stretto pull all-minilm-l6-v2\n"
    )


@pytest.mark.parametrize("command", ["serve", "inspect", "pull"])
def test_a_name_that_means_nothing_is_told_what_it_may_have_meant(stretto, command: str) -> None:
    ran = stretto(command, "smolm2-135m-instruct")
    assert (ran.returncode, ran.stdout) == (1, "")
    first, second = ran.stderr.splitlines()
    assert first == (
        "error: no model 'smolm2-135m-instruct': it is not a directory, a .gguf file, a hub id or in the catalogue."
    )
    assert second.startswith("       Did you mean smollm2-135m-instruct?")


def test_pickles_are_refused_with_what_to_do(stretto, minilm: Path, tmp_path: Path) -> None:
    shutil.copy(minilm / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    ran = stretto("inspect", str(tmp_path))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(
        f"error: {tmp_path} holds only pytorch_model.bin, a pickle: stretto does not load pickles, they can run code.\n"
    )


def test_an_architecture_that_is_not_there_is_named_with_those_that_are(stretto, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["FalconH1ForCausalLM"]}')
    ran = stretto("inspect", str(tmp_path))
    assert (ran.returncode, ran.stdout) == (1, "")
    first, second = ran.stderr.splitlines()
    where = f"{tmp_path.name}/config.json"
    assert first == f'error: {where} says architectures: ["FalconH1ForCausalLM"], which stretto does not have.'
    assert second.startswith("       It has: ")
    assert "LlamaForCausalLM" in second


def test_serve_refuses_to_be_reached_by_others_unsaid(stretto) -> None:
    ran = stretto("serve", "--listen", "0.0.0.0:0")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: 0.0.0.0 can be reached from other machines, and ")
    assert "--insecure if you mean it" in ran.stderr


def test_the_configuration_is_printed_for_people_and_as_json(stretto, tmp_path: Path) -> None:
    file = tmp_path / "stretto.toml"
    file.write_text("threads = 3\n")
    words = ("serve", "--config", str(file), "--listen", "127.0.0.1:1", "--print-config")
    plain = stretto(*words).stdout
    assert f"threads = 3  # {file}:1\n" in plain
    assert 'listen = "127.0.0.1:1"  # --listen\n' in plain
    found = [json.loads(line) for line in stretto(*words, "--json").stdout.splitlines()]
    assert tomllib.loads(plain) == {setting["name"]: setting["value"] for setting in found}
    assert {"name": "threads", "value": 3, "origin": f"{file}:1"} in found


def test_the_catalogue_is_listed_without_a_server(stretto, tmp_path: Path) -> None:
    ran = stretto(
        "models", "--catalogue", "--json", variables={"STRETTO_CACHE": str(tmp_path), "STRETTO_TARGET": "no:1"}
    )
    entries = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2"} <= {entry["name"] for entry in entries}
    assert all(entry["fetched"] == [] for entry in entries)


def test_pull_uses_what_is_in_the_cache(stretto, minilm: Path) -> None:
    ran = stretto("pull", "./nowhere-at-all")
    assert ran.returncode == 1
    assert "no model './nowhere-at-all'" in ran.stderr
    ran = stretto("pull", str(minilm), "--json")
    assert json.loads(ran.stdout)["path"] == str(minilm)
