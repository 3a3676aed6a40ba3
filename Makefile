# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DICOM  ?=
BENCH  ?=

.PHONY: help install demo test lint bench bench-full clean

help:
	@echo "make demo              run the real service on loopback with synthetic studies and ask it three questions"
	@echo "make demo DICOM=folder the same with your own DICOM files"
	@echo "make test              the whole test suite"
	@echo "make bench             measure beside DCMTK, Orthanc, pynetdicom and hnswlib (15 minutes): bench/bench.html"
	@echo "make bench-full        the same with 230,000 and 1,000,000 vectors (hours); BENCH='--only search' for options"
	@echo "make install           only build $(VENV)"
	@echo "make lint              ruff and mypy --strict"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml deploy/install.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh deploy/install.sh
	@touch $@

demo: install
	@$(BIN)/cxrfind demo $(if $(DICOM),--dicom "$(DICOM)")

test: install
	$(BIN)/python -m pytest tests -n auto --maxprocesses 4 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	@sh tests/peers.sh
	@$(BIN)/python tests/benchmarks/bench.py $(BENCH)

bench-full: install
	@sh tests/peers.sh
	@$(BIN)/python tests/benchmarks/bench.py --full $(BENCH)

clean:
	rm -rf $(VENV) demo build *.egg-info
