"""Run folders: what they say about a model, and what is left when a training fails."""

import json

import pytest

from tfpg.cli import runs


@pytest.fixture
def folder(tmp_path):
    config = {"env": "CartPole-v1", "head": {"positive_action": 0}, "options": {"max_steps": 30}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.keras").write_bytes(b"PK\x05\x06" + bytes(18))  # an empty archive
    return tmp_path


@pytest.mark.parametrize(
    ("env", "limit"),
    [(None, 30), ("CartPole-v1", 30), ("CartPole", 30), ("Acrobot-v1", None)],
)
def test_the_head_belongs_to_the_model_and_the_limit_to_the_environment(folder, env, limit):
    source = runs.find_model(folder, env)
    assert source.env == (env or "CartPole-v1")
    assert source.head == {"positive_action": 0}
    assert source.max_steps == limit


def test_given_options_replace_those_of_the_run(folder):
    assert runs.find_model(folder, head={"positive_action": 1}).head == {"positive_action": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"options": {"max_steps": 1, "lern_period": 1}},
            "Unknown agent option 'lern_period'. Did you mean 'learn_period'?",
        ),
        (
            {"head": {"positve_action": 1}},
            "Unknown head option 'positve_action'. Did you mean 'positive_action'?",
        ),
        ({"heads": {}}, "Unknown entry 'heads'. Did you mean 'head'?"),
        ({"qqq": 1}, "Unknown entry 'qqq'. Available: command, algorithm, env,"),
        ({"options": {}}, "it lacks 'max_steps'"),
        ({"head": 3}, "'int' object is not iterable"),
    ],
)
def test_an_unknown_entry_of_a_config_is_an_error(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="is not the config of a run") as caught:
        runs.find_model(folder)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" " * (2**20 + 1), "is larger than 1.0 MB"),
        (b"[" * 100_000, "is not valid JSON: maximum recursion depth"),
        (b"\x80\x04N.", "is not valid JSON: 'utf-8' codec"),
        (b"[]", "a list"),
        (b'{"env": 1, "env": 2}', "is not valid JSON: a key occurs twice"),
    ],
)
def test_a_config_is_a_json_object_of_limited_size(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        runs.find_model(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_a_run_that_fails_before_its_first_iteration_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "config.json").write_text("{}")
        raise RuntimeError("the reason")
    assert not list(tmp_path.iterdir())


def test_a_run_with_an_iteration_keeps_its_folder(tmp_path):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a"):
        (tmp_path / "a" / "metrics.csv").write_text("epoch,loss\n0,1.0\n")
        raise RuntimeError("the reason")
    assert (tmp_path / "a" / "metrics.csv").exists()


def test_files_of_other_programs_stay(tmp_path):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a" / "b"):
        (tmp_path / "a" / "others.txt").write_text("stays")
        raise RuntimeError("the reason")
    assert (tmp_path / "a" / "others.txt").exists()
