#!/usr/bin/env bash
# Creates .venv, installs what the tests need, lints, type-checks and runs the tests, fast ones first.
#   ./scripts/test.sh          everything
#   ./scripts/test.sh --fast   leaves out the slow tests (learning thresholds, long runs)
#   Other arguments go to pytest.
set -eu
. "$(dirname "$0")/setup.sh" --requirement requirements.txt --editable .
install_system_packages

marks=""
if [ "${1:-}" = "--fast" ]; then
    shift
    marks="not slow"
fi
ruff check .
ruff format --check --quiet .
mypy
python -m pytest --numprocesses auto -m "$marks" "$@"
