"""Run folders: what they say about a model, and what is left when nothing came of them."""

import json

import pytest

from tfpg import runs


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
