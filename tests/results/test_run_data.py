"""Runs as they are read from folders and histories, and how they are grouped."""

import keras
import numpy as np
import pytest
from made_runs import make_run

import tfpg
from tfpg.envs.probes import OneAction
from tfpg.results.learning_curves import align
from tfpg.results.run_data import Group, Run, groups_of, last_metrics, read_run


def history_of(**logs):
    history = keras.callbacks.History()
    history.history = logs
    return history


class TestReading:
    def test_iterations_without_a_validation_are_left_out_of_its_curve(self, tmp_path):
        run = read_run(make_run(tmp_path / "run", [None, 20, None, 40], seed=3))
        steps, values = run.curve("val_episode_return")
        assert (steps.tolist(), values.tolist()) == ([200, 400], [20, 40])
        assert run.curve("episode_return")[1].tolist() == [0.3, 1.3, 2.3, 3.3]
        assert (run.algorithm, run.env, run.seed, run.episodes) == ("ppo", "CartPole-v1", 3, 10)
        assert run.env_steps == 400

    @pytest.mark.parametrize("end", ["2,2.0,30", "2,2.0,300.0,30.0", "2,"])
    def test_a_last_line_that_is_being_written_is_ignored(self, tmp_path, end):
        run = make_run(tmp_path / "run", [10, 20])
        with (run / "metrics.csv").open("a") as file:
            file.write(end)
        assert read_run(run).curve("val_episode_return")[1].tolist() == [10, 20]

    @pytest.mark.parametrize("value", ["NA", "nan", "inf"])
    def test_values_that_are_not_finite_are_left_out(self, tmp_path, value):
        run = make_run(tmp_path / "run", [], rows=["0,1,100,5", f"1,1,200,{value}", "2,1,300,7"])
        assert read_run(run).curve("val_episode_return")[1].tolist() == [5, 7]

    def test_of_repeated_iterations_the_last_counts_and_some_may_be_missing(self, tmp_path):
        rows = ["0,1,100,5", "1,1,200,6", "", "1,1,200,7", "5,1,600,8"]
        steps, values = read_run(make_run(tmp_path / "r", [], rows=rows)).curve(
            "val_episode_return"
        )
        assert (steps.tolist(), values.tolist()) == ([100, 200, 600], [5, 7, 8])

    def test_lines_may_end_as_on_windows(self, tmp_path):
        run = make_run(tmp_path / "run", [10, 20])
        content = (run / "metrics.csv").read_bytes()
        (run / "metrics.csv").write_bytes(content.replace(b"\n", b"\r\n"))
        assert read_run(run).curve("val_episode_return")[1].tolist() == [10, 20]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1,x,200,6", "line 3, is broken: could not convert string to float: 'x'"),
            ("1,1,200", "line 3, is broken: it has 3 of 4 values"),
            ("1,1,200,6,7", "line 3, is broken: it has 5 of 4 values"),
            ("NA,1,200,6", "line 3, is broken: cannot convert float NaN"),
            ("1,1,NA,6", "line 3, is broken: env_steps is nan"),
            ("1,1,50,6", "is broken: env_steps decreases in epoch 1."),
            ("\0\xff,1,200,6", "line 3, is broken: could not convert"),
        ],
    )
    def test_a_broken_line_is_named(self, tmp_path, row, message):
        run = make_run(tmp_path / "run", [], rows=["0,1,100,5", row, "2,1,300,7"])
        with pytest.raises(ValueError, match="is broken") as caught:
            read_run(run)
        assert message in str(caught.value)
        assert str(run / "metrics.csv") in str(caught.value)

    def test_another_programs_table_is_refused(self, tmp_path):
        run = make_run(tmp_path / "run", [1])
        (run / "metrics.csv").write_text("epoch,loss\n0,1\n")
        with pytest.raises(ValueError, match="line 2, is broken: no column 'env_steps'"):
            read_run(run)

    @pytest.mark.parametrize("content", [None, "", "epoch,env_steps\n", "epoch,env_steps\n\n0,1"])
    def test_a_run_without_metrics_is_named(self, tmp_path, content):
        run = make_run(tmp_path / "run", [1])
        (run / "metrics.csv").unlink()
        if content is not None:
            (run / "metrics.csv").write_text(content)
        with pytest.raises(FileNotFoundError, match="run' has no metrics yet"):
            groups_of(run)

    def test_metrics_that_a_run_does_not_have_are_an_error(self, tmp_path):
        run = read_run(make_run(tmp_path / "run", [None]))
        with pytest.raises(ValueError, match=r"run' 'entropi'\. Available: epoch, "):
            run.curve("entropi")
        with pytest.raises(ValueError, match="run' has no val_episode_return yet"):
            run.curve("val_episode_return")


class TestHistories:
    def test_shorter_lists_are_of_the_last_iterations_and_validations_have_their_steps(self):
        history = history_of(
            env_steps=[100, 200, 300, 400],
            episode_return=[2.0, 3.0, 4.0],
            val_episode_return=[7.0, 9.0],
            val_env_steps=[200, 400],
        )
        history.set_params({"validation_episodes": 7})
        ((label, env, (run,)),) = groups_of(history)
        assert (label, env) == ("", "")
        assert run.curve("episode_return")[0].tolist() == [200, 300, 400]
        assert run.curve("val_episode_return")[0].tolist() == [200, 400]
        assert (run.score("val_episode_return"), run.episodes) == (9, 7)

    @pytest.mark.parametrize(
        ("env", "name"), [("CartPole-v1",) * 2, (OneAction, "")], ids=["id", "class"]
    )
    def test_fit_notes_the_environment(self, env, name):
        agent = tfpg.Reinforce(tfpg.networks.mlp(env, (4,)), episodes_per_update=2)
        ((label, found, _),) = groups_of({"a": agent.fit(env, 1, seed=0, verbose=0)})
        assert (label, found) == ("a", name)

    def test_an_empty_history_is_an_error(self):
        with pytest.raises(ValueError, match="train with fit first"):
            groups_of(history_of())

    @pytest.mark.parametrize("what", [None, 3, [], [[]], [None], {}])
    def test_anything_else_is_an_error(self, what):
        with pytest.raises(ValueError, match="Expected run folders, histories, or"):
            groups_of(what)


def run_with(steps, values, env_steps=1000):
    curve = np.array(steps, float), np.array(values, float)
    return Run("'r'", {"x": curve}, env_steps)


@pytest.mark.parametrize(
    ("steps", "values", "expected"),
    [
        ([100, 899, 900, 1000], [1, 2, 3, 5], 4),  # 900 and 1000
        ([100, 800], [1, 2], 2),  # none in the last tenth: the last one
        ([1000], [7], 7),
    ],
)
def test_the_score_is_the_mean_of_the_last_tenth(steps, values, expected):
    assert run_with(steps, values).score("x") == expected


class TestAlignment:
    def test_runs_are_interpolated_on_the_steps_that_they_share(self):
        runs = [run_with([0, 100, 300], [0, 10, 30]), run_with([100, 500], [100, 500])]
        steps, values = align(Group("g", "", runs), "x")
        assert (steps[0], steps[-1], len(values)) == (100, 300, len(steps))
        np.testing.assert_allclose(values, np.stack([steps / 10, steps], axis=-1))

    def test_a_single_step_may_be_shared(self):
        runs = [run_with([0, 100], [0, 10]), run_with([100, 500], [7, 8])]
        steps, values = align(Group("g", "", runs), "x")
        assert (steps.tolist(), values.tolist()) == ([100], [[10, 7]])

    def test_runs_that_share_no_steps_are_an_error(self):
        runs = [run_with([0, 100], [0, 10]), run_with([200, 500], [7, 8])]
        with pytest.raises(ValueError, match="ends at 100 steps, .* begins at 200"):
            align(Group("g", "", runs), "x")


def labels(what):
    return [(group.label, group.env, len(group.runs)) for group in groups_of(what)]


class TestGroups:
    def test_seeds_are_one_group(self, tmp_path):
        for seed in range(3):
            make_run(tmp_path / f"ppo/seed-{seed}", [1, 2], seed)
        assert labels(tmp_path) == [("ppo", "CartPole-v1", 3)]
        assert labels([tmp_path / "ppo/seed-0", tmp_path / "ppo/seed-2"])[0][2] == 2

    def test_groups_are_labeled_by_what_differs(self, tmp_path):
        make_run(tmp_path / "a", [1], learning_rate=0.001, gamma=0.9)
        make_run(tmp_path / "b", [2], learning_rate=0.01, gamma=0.9)
        make_run(tmp_path / "c", [3], algorithm="dqn", gamma=0.5)
        make_run(tmp_path / "d", [4], env="Acrobot-v1", gamma=0.99)
        assert labels(tmp_path) == [
            ("ppo, learning_rate=0.001", "CartPole-v1", 1),
            ("ppo, learning_rate=0.01", "CartPole-v1", 1),
            ("dqn", "CartPole-v1", 1),
            ("ppo", "Acrobot-v1", 1),
        ]

    def test_several_differences_and_missing_options_are_shown(self, tmp_path):
        rate = {"config": {"initial_learning_rate": 0.5}}  # of a schedule
        make_run(tmp_path / "a", [1], gamma=0.9, learning_rate=0.1)
        make_run(tmp_path / "b", [1, 2], gamma=0.99, network={"hidden": [8]}, learning_rate=rate)
        assert [label for label, *_ in labels(tmp_path)] == [
            "ppo, learning_rate=0.1, gamma=0.9",
            "ppo, learning_rate=0.5, gamma=0.99, hidden=[8]",
        ]

    def test_a_dict_names_groups_and_environments_separate_them(self, tmp_path):
        one = make_run(tmp_path / "one", [1], learning_rate=0.1)
        two = make_run(tmp_path / "two", [2], learning_rate=0.2)
        other = make_run(tmp_path / "other", [3], env="Acrobot-v1")
        history = history_of(env_steps=[100], episode_return=[2.0])
        assert labels({"mine": [one, two, other], "theirs": history}) == [
            ("mine", "CartPole-v1", 2),
            ("mine", "Acrobot-v1", 1),
            ("theirs", "", 1),
        ]

    def test_a_copy_of_a_run_is_no_further_sample(self, tmp_path):
        make_run(tmp_path / "a", [1, 2])
        make_run(tmp_path / "copy", [1, 2])
        with pytest.warns(UserWarning, match=r"copy' is left out: .* equal those of .*a'"):
            assert labels(tmp_path) == [("ppo", "CartPole-v1", 1)]
        with pytest.warns(UserWarning, match="is left out"):
            assert labels([tmp_path / "a", tmp_path / "a"])[0][2] == 1

    def test_a_run_of_a_folder_that_has_just_begun_is_left_out(self, tmp_path):
        make_run(tmp_path / "a", [1])
        make_run(tmp_path / "b", [])
        with pytest.warns(UserWarning, match="b' is left out: it has no metrics yet"):
            assert labels(tmp_path) == [("ppo", "CartPole-v1", 1)]

    def test_what_is_no_run_is_named(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="empty' is not a run: it has no config.json"):
            groups_of(tmp_path / "empty")
        with pytest.raises(FileNotFoundError, match="No run at .*nowhere"):
            groups_of([str(tmp_path / "nowhere")])


def test_the_newest_metrics_are_found_in_files_of_any_length(tmp_path):
    names = ["env_steps", "episode_return", "val_episode_return"]
    for count in (1, 3, 2000, *range(4000, 4040)):
        rows = [[str(n), f"{n}.5", "NA" if n % 7 else str(-n)] for n in range(1, count + 1)]
        text = "".join(",".join(row) + "\n" for row in [names, *rows])
        (tmp_path / "metrics.csv").write_text(text + "17,1")  # a row that is being written
        found = last_metrics(tmp_path)
        expected = {"env_steps": count, "episode_return": count + 0.5}
        if count >= 7:
            expected["val_episode_return"] = -(count // 7) * 7
        assert found == expected
    assert len(text) > 50_000
    assert last_metrics(tmp_path / "nothing") == {}
