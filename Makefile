# make score: generates eight pictures, and measures latency and distance. make demo: a page that draws pictures.
# make serve: a server for pictures. make test: runs all tests. make test-web: runs the page's tests in a browser.
# make lint: runs ruff and mypy. All of them first install what they need.
# CANNY2IMAGE_PYTHON=/usr/bin/python3 uses that interpreter instead of .venv; PYTHON=python3.12 creates .venv with it.
# The shell expands the path, which may have spaces. preprocess.sh says which variables are ignored, and why.
ignored := -u PYTHONSAFEPATH $(if $(CANNY2IMAGE_PYTHON),,-u PYTHONHOME -u PYTHONPATH)
python := env $(ignored) "$${CANNY2IMAGE_PYTHON:-.venv/bin/python}"

.NOTPARALLEL:
.PHONY: score demo serve test test-web lint
score:
	./preprocess.sh
	$(python) compute_score.py $(ARGS)

demo:
	./preprocess.sh web
	$(python) -m serving.page $(ARGS)

serve:
	./preprocess.sh serve
	$(python) -m serving.server $(ARGS)

test:
	./preprocess.sh dev train web serve tensorrt-rtx
	$(python) -m pytest -n 2 --dist loadgroup $(ARGS)

test-web:
	./preprocess.sh dev web
	$(python) -m pytest tests/test_page*.py $(ARGS)

lint:
	./preprocess.sh dev train web serve tensorrt-rtx
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) -m mypy canny2image_TRT.py commands.py compute_score.py files.py reading.py
