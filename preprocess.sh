#!/usr/bin/env -S bash -p
# Sets up the environment and builds the engines for this machine. When all is up to date, it changes nothing and needs
# no network. After an interruption, run it again.
#
#   ./preprocess.sh [extra ...]     extras of pyproject.toml: dev, train, web, serve, tensorrt, tensorrt-rtx
#
# Creates .venv with $PYTHON (default python3). With CANNY2IMAGE_PYTHON=/usr/bin/python3 it uses that interpreter
# instead, installs nothing and prints the missing requirements.
# bash -p ignores BASH_ENV, CDPATH and functions of the caller.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

given=${CANNY2IMAGE_PYTHON:-}
python=${given:-.venv/bin/python}
creator=${PYTHON:-python3}

say() { echo "preprocess.sh: $*" >&2; }
refuse() { say "$*"; exit 1; }
trap 'say "stopped: run it again to go on"; exit 130' INT

# Prints the folder of an interpreter's environment. Prints nothing, or no folder, if this is not a working Python.
prefix() { "$1" -c 'import sys; print(sys.prefix)' 2>/dev/null </dev/null || true; }

# Prints in parentheses the first line with which a program refuses to run as a Python, if it prints any.
reason() { { "$1" -c '' 2>&1 </dev/null || true; } | sed -E 's/^.*: line [0-9]+: //; s/.+/ (&)/; q'; }

# Prints the missing requirements. Status: 0, 2 after a sentence that tells what the user must change, or 3 without pip.
lacking() { "$python" build/environment.py "$@"; }

create_venv() {
    if [ -L .venv ] || [ -f .venv ]; then
        refuse ".venv is a file, or a link to a folder without bin/python, expected a folder: delete it"
    fi
    [ -d "$(prefix "$creator")" ] || refuse "PYTHON=$creator does not run as a Python$(reason "$creator"):" \
        "set PYTHON to an installed Python, 3.10 to 3.13"
    local status=0 output
    "$creator" build/environment.py "$@" >/dev/null || status=$?
    [ "$status" -ne 2 ] || exit 2
    [ ! -e .venv ] || say "creating .venv again, because .venv/bin/python is missing"
    output=$("$creator" -m venv --clear --without-pip .venv 2>&1) ||
        refuse ".venv cannot be created: ${output##*$'\n'}"
}

install_pip() {
    echo "preprocess.sh: installing pip into .venv"
    rm -rf .venv/lib/python3*/site-packages/pip{,-*.dist-info}  # ensurepip would keep a damaged pip
    local output
    output=$("$python" -m ensurepip 2>&1) ||
        refuse "pip cannot be installed into .venv (${output##*$'\n'}): free disk space, install python3-venv on Debian" \
            "or Ubuntu, or set PYTHON to another Python and delete .venv"
}

install() {
    echo "preprocess.sh: installing ${missing//$'\n'/, } into .venv"
    "$python" build/environment.py --clean
    local requirements
    mapfile -t requirements <<<"$missing"
    "$python" -m pip install --quiet --disable-pip-version-check --no-user --no-compile "${requirements[@]}" ||
        refuse "pip failed (its error is above), and .venv lacks ${missing//$'\n'/, }: check the network and the disk" \
            "space, then run this again; without a network, set PIP_FIND_LINKS to a folder of wheels"
    missing=$(lacking "$@")
    [ -z "$missing" ] || refuse "pip reported no error, but .venv lacks ${missing//$'\n'/, }: check that the settings" \
        "of pip (.venv/bin/python -m pip config list) install into .venv, or delete .venv"
    # With all cores, unlike pip. Some packages have templates that are no valid Python.
    "$python" -m compileall -qq -j 0 .venv/lib &>/dev/null || true
}

exec 9<preprocess.sh
if ! flock --nonblock 9; then
    say "waiting for another preprocess.sh in this folder to end"
    flock 9
fi

ignored=(PYTHONSAFEPATH)
[ -n "$given" ] || ignored+=(PYTHONHOME PYTHONPATH)
for name in "${ignored[@]}"; do
    [ -z "${!name:-}" ] || say "ignoring $name=${!name}, because it changes where Python finds packages"
    unset "$name"
done

[ -n "$given" ] || [ -x .venv/bin/python ] || create_venv "$@"
folder=$(prefix "$python")
if [ -n "$given" ]; then
    [ -d "$folder" ] || refuse "CANNY2IMAGE_PYTHON=$given does not run as a Python$(reason "$given"): give the path" \
        "of a Python, 3.10 to 3.13, or unset it"
elif [ ! "$folder" -ef .venv ]; then
    refuse ".venv/bin/python does not run as the Python of .venv${folder:+, but of $folder}$(reason "$python"):" \
        "delete .venv"
fi

status=0
missing=$(lacking "$@") || status=$?
if [ "$status" -eq 3 ] && [ -z "$given" ]; then
    install_pip
    status=0
    missing=$(lacking "$@") || status=$?
fi
[ "$status" -ne 3 ] || refuse "$python lacks pip, which is needed to read the requirements: run it with -m ensurepip"
[ "$status" -eq 0 ] || exit "$status"

if [ -n "$missing" ] && [ -n "$given" ]; then
    core=$(lacking)
    [ -z "$core" ] || refuse "$python lacks ${core//$'\n'/, }: install them there, or unset CANNY2IMAGE_PYTHON" \
        "to let this script create .venv"
    say "$python lacks ${missing//$'\n'/, }: the tests that need them are skipped"
elif [ -n "$missing" ]; then
    install "$@"
fi

"$python" -m build
