# Sourced by demo.sh and test.sh: goes to the repository and makes .venv, once.
# Usage: . "$(dirname "$0")/setup.sh" [pip arguments: what to install]

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    if [ -n "$candidate" ] && command -v "$candidate" > /dev/null &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "tfpg needs Python 3.11, 3.12 or 3.13, and none was found: install one, or set PYTHON." >&2
    exit 1
fi

# An interrupted venv has a python already, and neither activate nor pip.
[ -f .venv/bin/activate ] && .venv/bin/python -m pip --version > /dev/null 2>&1 ||
    "$python" -m venv --clear .venv || exit 1
. .venv/bin/activate

# What is installed already is not asked for again.
stamp=$(cat requirements.txt setup.cfg pyproject.toml | cksum)" $*"
if [ "$(cat .venv/.installed 2> /dev/null)" != "$stamp" ]; then
    echo "Installing into .venv ..."
    pip install --quiet --disable-pip-version-check "$@" || exit 1
    echo "$stamp" > .venv/.installed
fi

install_xvfb() {
    command -v Xvfb > /dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        echo "Installing Xvfb ..."
        (apt-get update -qq && apt-get install -y -qq xvfb) > /dev/null 2>&1 && return
    fi
    echo "Xvfb is missing, for environments that need a display: sudo apt-get install xvfb" >&2
}
