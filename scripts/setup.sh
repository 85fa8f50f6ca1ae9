# Sourced by demo.sh and test.sh: changes to the repository and creates .venv, once.
# Usage: . "$(dirname "$0")/setup.sh" [pip arguments: what to install]

CDPATH="" cd -- "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    if [ -n "$candidate" ] && command -v "$candidate" > /dev/null &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "tfpg needs Python 3.11, 3.12 or 3.13: install one, or set PYTHON." >&2
    exit 1
fi

# An interrupted venv may have a python but no pip, and one that was moved has an old path in
# activate.
grep -qsF "$PWD/.venv" .venv/bin/activate && .venv/bin/python -m pip --version > /dev/null 2>&1 ||
    "$python" -m venv --clear .venv || exit 1
. .venv/bin/activate

# Install again only if the requirements have changed.
stamp=.venv/installed-$(cat requirements.txt setup.cfg pyproject.toml <(echo "$*") | cksum | tr ' ' '-')
if [ ! -e "$stamp" ]; then
    echo "Installing into .venv ..."
    pip install --quiet --disable-pip-version-check "$@" || exit 1
    touch "$stamp"
fi

# Xvfb is for environments that open a window, the others for MuJoCo.
install_system_packages() {
    command -v Xvfb > /dev/null && ldconfig -p | grep -q libEGL.so.1 && return
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        echo "Installing Xvfb and OpenGL ..."
        (apt-get update -qq && apt-get install -y -qq xvfb libegl1 libgl1-mesa-dri) > /dev/null 2>&1 &&
            return
    fi
    echo "Xvfb or EGL is missing, which videos of some environments need:" \
        "sudo apt-get install xvfb libegl1 libgl1-mesa-dri" >&2
}
