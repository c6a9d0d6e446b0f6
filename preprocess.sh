#!/usr/bin/env bash
# Sets up the environment and builds the engines for this machine. When all is up to date, it changes nothing and needs
# no network.
#
#   ./preprocess.sh [extra ...]     extras of pyproject.toml: dev, train, web, tensorrt, tensorrt-rtx
#
# Creates .venv with $PYTHON (default python3). With CANNY2IMAGE_PYTHON=/usr/bin/python3 it uses that interpreter
# instead, installs nothing and prints the missing requirements.
set -euo pipefail
cd "$(dirname "$0")"

python=${CANNY2IMAGE_PYTHON:-.venv/bin/python}

# Prints the missing requirements. Status: 0 if there are none, 1 if there are some, 2 if this cannot be determined.
lacking() { "$python" build/environment.py "$@"; }

created=
if [ -z "${CANNY2IMAGE_PYTHON:-}" ] && [ ! -x .venv/bin/python ]; then
    if ! command -v "${PYTHON:-python3}" >/dev/null; then
        echo "preprocess.sh: there is no ${PYTHON:-python3}: set PYTHON to an installed Python, 3.10 to 3.13" >&2
        exit 1
    fi
    "${PYTHON:-python3}" -m venv .venv
    created=yes
elif ! command -v "$python" >/dev/null; then
    echo "preprocess.sh: CANNY2IMAGE_PYTHON=$python does not exist: give the path of a Python, or unset it" >&2
    exit 1
fi

status=0
missing=$(lacking "$@") || status=$?
if [ "$status" -gt 1 ]; then
    [ -z "$created" ] || rm -rf .venv  # else the next call would use the same unsuitable Python
    exit "$status"
fi
if [ "$status" -eq 1 ] && [ -n "${CANNY2IMAGE_PYTHON:-}" ]; then
    if core=$(lacking); then
        echo "preprocess.sh: $python lacks ${missing//$'\n'/, }: the tests that need them are skipped" >&2
    else
        echo "preprocess.sh: $python lacks ${core//$'\n'/, }: install them there, or unset CANNY2IMAGE_PYTHON" \
            "to let this script create .venv" >&2
        exit 1
    fi
elif [ "$status" -eq 1 ]; then
    echo "preprocess.sh: installing ${missing//$'\n'/, } into .venv"
    mapfile -t requirements <<<"$missing"
    "$python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}"
    lacking "$@"
fi

"$python" -m build
