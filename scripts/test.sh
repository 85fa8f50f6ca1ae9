#!/usr/bin/env bash
# Makes .venv, installs what the tests need and runs them: the fast ones first.
#   ./scripts/test.sh          everything
#   ./scripts/test.sh --fast   without the slow tests (learning thresholds, memory)
#   other arguments go to pytest
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
