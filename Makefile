# `make venv` needs nothing but python3-venv; the image and rig targets install the rest with apt.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv unit lint
venv: $(VENV)/stamp
$(VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[server,dev]'
	touch $@
