# Every target works from a fresh clone and creates .venv. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-processors test-tl4 lint types types-src types-analyses docs notebooks clean

demo: .venv/installed
	$(BIN)/stackheads analyze checkpoints/cycle-d4-l3

test: .venv/installed-dev
	$(MAKE) --jobs 2 lint types
	$(BIN)/pytest -n 2 --dist loadscope
	$(BIN)/stackheads validate --quick --quiet

# The labeller once more without vector units, on one thread and on two: what other processors once failed.
LABELLER := tests/labelling/test_patterns.py tests/labelling/test_verdict.py tests/labelling/test_khop.py tests/timeline
test-processors: .venv/installed-dev
	MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(LABELLER)
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 $(LABELLER)

# What touches models once more with TransformerLens 4, in an environment of its own.
MODELS := tests/models tests/interventions tests/labelling/test_patterns.py tests/labelling/test_verdict.py
test-tl4: .venv-tl4/installed
	.venv-tl4/bin/pytest -n 2 --dist loadscope $(MODELS) tests/test_notebooks.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: types-src types-analyses

types-src: .venv/installed-dev
	$(BIN)/pyright

types-analyses: .venv/installed-dev
	$(BIN)/pyright --project analyses/pyright.json

# The site, in site/; a warning is an error. The variable silences an announcement about other software.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Runs the notebooks and stores what they print, without the scripts that make it move.
notebooks: .venv/installed-dev
	$(BIN)/python analyses/notebooks.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv-tl4/installed: pyproject.toml constraints-tl4.txt
	$(PYTHON) -m venv .venv-tl4
	.venv-tl4/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-tl4.txt --editable '.[dev]'
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv .venv-tl4 site
