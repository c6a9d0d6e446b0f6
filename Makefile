# make score: eight pictures, latency and distance. make test: everything that must hold. Both set up what they need.
# CANNY2IMAGE_PYTHON=/usr/bin/python3 uses that interpreter instead of .venv.
PYTHON := $(or $(CANNY2IMAGE_PYTHON),.venv/bin/python)

.PHONY: score test lint
score:
	./preprocess.sh
	$(PYTHON) compute_score.py $(ARGS)

test:
	./preprocess.sh dev train
	$(PYTHON) -m pytest $(ARGS)

lint:
	./preprocess.sh dev train
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy canny2image_TRT.py compute_score.py
