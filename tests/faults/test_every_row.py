"""The faults that are survived, and the tests that inject them: each is there under its name."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

ROWS = {
    "SIGKILL in the middle of a checkpoint's writing": [
        "resuming/test_store.py::test_at_any_point",
        "faults/test_stopped_runs.py::test_killed_again_and_again",
    ],
    "a full disk during a checkpoint": [
        "resuming/test_store.py::test_a_full_disk",
        "resuming/test_checkpoints.py::test_is_a_warning_and_its_records_come_with_the_next",
        "faults/test_stopped_runs.py::test_it_is_full_after_some_checkpoints",
        "faults/test_stopped_runs.py::test_it_is_full_at_once",
    ],
    "a full disk during a film": [
        "rendering/test_video.py::test_a_full_disk_is_one_error_and_leaves_nothing",
        "test_filming.py::test_a_full_disk_is_a_warning_and_leaves_nothing",
    ],
    "a checkpoint that is cut, empty, of something else, or has one bit changed": [
        "resuming/test_store.py::test_any_bit",
        "resuming/test_store.py::test_any_byte_of_the_log",
        "resuming/test_store.py::test_to_the_one_before_and_on_from_there",
        "resuming/test_store.py::test_all_are_broken",
        "faults/test_loading.py::test_the_file",
    ],
    "the wrong kind of file": [
        "faults/test_loading.py::test_files",
        "faults/test_loading.py::test_folders",
        "faults/test_loading.py::test_what_is_no_regular_file",
    ],
    "a newer tfpg or Keras": [
        "resuming/test_checkpoints.py::test_newer_ones",
        "resuming/test_store.py::test_another_form_is_no_corruption",
        "faults/test_loading.py::test_a_newer_keras",
    ],
    "a model of other spaces": [
        "faults/test_loading.py::test_a_policy_in_another_environment",
        "agents/test_resume.py::test_another_training_is_refused_and_nothing_is_changed",
    ],
    "a malicious .keras file": [
        "faults/test_loading.py::test_a_config_names_no_code",
        "faults/test_loading.py::test_weights_are_numbers_alone",
        "faults/test_loading.py::test_other_parts",
    ],
    "a config with code, or an unknown or misspelt key": [
        "test_runs.py::test_what_a_config_does_not_know_is_an_error",
        "test_cli.py::test_a_misspelt_option_is_offered_its_likely_meaning",
    ],
    "a loss that is not finite": [
        "faults/test_non_finite.py::test_where_it_was_is_told_and_what_it_was_is_kept",
        "faults/test_non_finite.py::test_of_a_replay",
        "faults/test_non_finite.py::test_the_command_line_exits_with_3",
    ],
    "a gradient alone that is not finite": [
        "agents/test_reinforce.py::test_a_non_finite_gradient_is_named_and_not_applied",
    ],
    "an observation or a reward that is not finite": [
        "faults/test_non_finite.py::test_the_command_line_exits_with_3",
        "faults/test_non_finite.py::test_what_an_environment_gives_can_be_left_out",
    ],
    "a space that is not supported": [
        "agents/test_dqn.py::test_real_actions_name_the_agents_that_do_them",
    ],
    "an exception in an environment": [
        "faults/test_environments.py::test_an_exception_in_a_step",
        "faults/test_environments.py::test_an_exception_in_a_reset",
        "faults/test_environments.py::test_no_step_of_a_broken_episode",
        "faults/test_environments.py::test_drop_leaves_the_episode_out",
    ],
    "a worker that dies or hangs": [
        "faults/test_environments.py::test_a_worker_that_dies",
        "faults/test_environments.py::test_none_outlives_a_parent_that_is_killed",
        "faults/test_environments.py::test_failures_in_a_row_are_raised",
    ],
    "a constructor that fails": [
        "faults/test_environments.py::test_an_exception_in_a_constructor_is_its_own",
    ],
    "Ctrl-C once and twice, SIGTERM": [
        "faults/test_stopped_runs.py::test_once_and_it_goes_on_as_if_nothing_had_been",
        "faults/test_stopped_runs.py::test_in_a_long_iteration",
    ],
    "going on to the bit": [
        "agents/test_resume.py::test_to_the_bit",
        "agents/test_resume.py::test_callbacks_carry_on",
    ],
    "truncation and termination, both at once, in every mode": [
        "test_collector.py::test_a_cap_truncates_and_an_end_at_the_cap_terminates",
        "ops/test_q_learning.py::test_an_end_stops_the_sum_and_only_a_termination_the_bootstrap",
        "replay/test_buffer.py::test_transitions_are_what_happened",
        "agents/test_probes.py::test_a_time_limit_and_a_real_end_have_different_values",
    ],
    "batches that teach nothing, and environments that never end": [
        "agents/test_estimators.py::test_one_episode_of_one_step",
        "agents/test_estimators.py::test_equal_returns_teach_nothing",
        "ops/test_returns.py::test_equal_values_give_zeros",
        "test_fragments.py::test_an_endless_environment_is_said_once",
    ],
    "no display, no Xvfb, no codec": [
        "rendering/test_record.py::test_a_missing_xvfb_is_one_line_with_the_mend",
        "rendering/test_stage.py::test_goes_with_a_process_that_is_killed",
        "rendering/test_video.py::test_a_missing_codec_is_one_line_with_the_mend",
    ],
    "no GPU, or one that is too small for a replay": [
        "test_doctor.py::test_each_reason_has_its_sentence",
        "agents/test_off_policy.py::test_stay_in_the_machine_where_the_device_is_full",
        "replay/test_buffer.py::test_is_refused_before_it_is_taken",
    ],
}


@pytest.mark.parametrize("row", ROWS)
def test_has_its_tests(row):
    for name in ROWS[row]:
        path, _, function = name.partition("::")
        tree = ast.parse((TESTS / path).read_text())
        defined = {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)}
        assert function in defined, name
