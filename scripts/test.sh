#!/usr/bin/env bash
# Creates .venv, installs what the tests need, lints, type-checks and runs the tests, fast ones first.
#   ./scripts/test.sh          everything
#   ./scripts/test.sh --fast   leaves out the slow tests (learning thresholds, long runs)
#   Other arguments go to pytest.
set -eu
. "$(dirname "$0")/setup.sh" --requirement requirements.txt --editable .
install_system_packages

speeds=("not slow" "slow")
if [ "${1:-}" = "--fast" ]; then
    shift
    speeds=("not slow")
fi
ruff check .
ruff format --check --quiet .
mypy
if [ $# -gt 0 ]; then
    [ ${#speeds[@]} = 1 ] && set -- -m "${speeds[0]}" "$@"
    exec python -m pytest --numprocesses auto "$@"
fi

# TensorFlow never frees what XLA has compiled, which is gigabytes after thousands of tests. Each of
# these runs starts new processes.
status=0
for speed in "${speeds[@]}"; do
    for part in tests/agents "tests --ignore=tests/agents"; do
        # shellcheck disable=SC2086 # two words
        python -m pytest --numprocesses auto -m "$speed" $part || status=$?
    done
done
exit "$status"
