# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DICOM  ?=

.PHONY: help install demo test lint clean

help:
	@echo "make demo              run the real service on loopback with synthetic studies and ask it three questions"
	@echo "make demo DICOM=folder the same with your own DICOM files"
	@echo "make test              the whole test suite"
	@echo "make install           only build $(VENV)"
	@echo "make lint              ruff and mypy --strict"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml deploy/install.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh deploy/install.sh
	@touch $@

demo: install
	@$(BIN)/cxrfind demo $(if $(DICOM),--dicom "$(DICOM)")

test: install
	$(BIN)/python -m pytest tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info
