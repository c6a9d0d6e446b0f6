# make score: generates eight pictures, and measures latency and distance. make test: runs all tests. make lint: runs
# ruff and mypy. make serve: serves pictures over HTTP. All of them first install what they need.
# CANNY2IMAGE_PYTHON=/usr/bin/python3 uses that interpreter instead of .venv; PYTHON=python3.12 creates .venv with it.
# The shell expands the path, which may have spaces. preprocess.sh says which variables are ignored, and why.
ignored := -u PYTHONSAFEPATH $(if $(CANNY2IMAGE_PYTHON),,-u PYTHONHOME -u PYTHONPATH)
python := env $(ignored) "$${CANNY2IMAGE_PYTHON:-.venv/bin/python}"

.NOTPARALLEL:
.PHONY: score test lint serve
score:
	./preprocess.sh
	$(python) compute_score.py $(ARGS)

test:
	./preprocess.sh dev train tensorrt-rtx
	$(python) -m pytest -n 2 --dist loadgroup $(ARGS)

lint:
	./preprocess.sh dev train tensorrt-rtx
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) -m mypy canny2image_TRT.py commands.py compute_score.py files.py reading.py

serve:
	./preprocess.sh serve
	$(python) -m serving.server $(ARGS)
