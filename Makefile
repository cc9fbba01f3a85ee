# The developers' own commands; CI runs the same ones.
# Each target sets up .venv by itself: with uv when it is on PATH, else with venv and pip, from constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests run in so many processes: more than the two cores that CI has, for much of a test is waiting.
JOBS ?= 3

.PHONY: demo test soak check bench up format docs pins clean

demo: $(STAMP)
	$(BIN)/gpu-mesh demo

up: $(STAMP)
	$(BIN)/gpu-mesh up

# Tests of one file stay in one process, each process with a Redis of its own.
test: $(STAMP)
	$(BIN)/pytest -n $(JOBS) --dist loadfile

soak: $(STAMP)
	$(BIN)/pytest -m soak --timeout 1800 tests/fault tests/acceptance

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/generate.py --check

# Some of them: make bench ONLY="failover storm"
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ONLY)

docs: $(STAMP)
	$(BIN)/python docs/generate.py

# From what the newest releases are today; look at the difference before you commit it.
pins:
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/pip install --quiet --upgrade --editable '.[dev]'
	{ echo '# What the make targets install: plain pins, for every platform. Renewed with: make pins'; \
	  .venv-pins/bin/pip freeze --all --exclude-editable | grep -v '^pip=='; } > constraints.txt
	rm -rf .venv-pins

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) .venv-pins build dist *.egg-info
