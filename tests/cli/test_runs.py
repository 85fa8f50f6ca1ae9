"""Run folders: what they say about a model, and what is left when nothing came of them."""

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
    ("env", "cap"),
    [(None, 30), ("CartPole-v1", 30), ("CartPole", 30), ("Acrobot-v1", None)],
)
def test_the_head_belongs_to_the_model_and_the_cap_to_the_environment(folder, env, cap):
    source = runs.find_model(folder, env)
    assert source.env == (env or "CartPole-v1")
    assert source.head == {"positive_action": 0}
    assert source.max_steps == cap


def test_what_is_said_goes_over_the_runs_head(folder):
    assert runs.find_model(folder, head={"positive_action": 1}).head == {"positive_action": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"max_steps": 1, "lern_period": 1}}, "'lern_period', did you mean 'learn_per"),
        (
            {"head": {"positve_action": 1}},
            "unknown option of the head 'positve_action', did you me",
        ),
        ({"heads": {}}, "unknown option 'heads', did you mean 'head'"),
        ({"qqq": 1}, "unknown option 'qqq': there are algorithm, arguments, critic, env,"),
        ({"options": {}}, "it lacks 'max_steps'"),
        ({"head": 3}, "'int' object is not iterable"),
    ],
)
def test_what_a_config_does_not_know_is_an_error(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        runs.find_model(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" " * (2**20 + 1), "larger than 1.0 MB"),
        (b"[" * 100_000, "is not valid JSON: maximum recursion depth"),
        (b"\x80\x04N.", "is not valid JSON: 'utf-8' codec"),
        (b"[]", "is a list, not a JSON object"),
        (b'{"env": 1, "env": 2}', "is not valid JSON: a key occurs twice"),
    ],
)
def test_a_config_is_json_of_bounded_size(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        runs.find_model(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_a_run_that_failed_at_once_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "config.json").write_text("{}")
        raise RuntimeError("the reason")
    assert not list(tmp_path.iterdir())


def test_the_reason_is_not_hidden_by_what_another_put_there(tmp_path):
    with pytest.raises(RuntimeError, match="the reason"), runs.new_run(tmp_path / "a" / "b"):
        (tmp_path / "a" / "others.txt").write_text("stays")
        raise RuntimeError("the reason")
    assert (tmp_path / "a" / "others.txt").exists()
