#!/usr/bin/env bash
# Sets up the environment and the engines for this machine. Running it again changes nothing and needs no network.
#
#   ./preprocess.sh [extra ...]     extras of pyproject.toml: dev, train, web, tensorrt, tensorrt-rtx
#
# Creates .venv with $PYTHON (default python3). CANNY2IMAGE_PYTHON=/usr/bin/python3 uses that interpreter instead:
# nothing is installed into it, and missing requirements are printed.
set -euo pipefail
cd "$(dirname "$0")"

python=${CANNY2IMAGE_PYTHON:-.venv/bin/python}

# Prints the missing requirements; exits with 1 if there are any, 2 if this cannot be determined.
lacking() { "$python" build/environment.py "$@"; }

if [ -z "${CANNY2IMAGE_PYTHON:-}" ] && [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -m venv .venv
fi

status=0
missing=$(lacking "$@") || status=$?
[ "$status" -le 1 ] || exit "$status"
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
