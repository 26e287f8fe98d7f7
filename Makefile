PYTHON ?= python3
OUTPUT ?= runs/quickstart
WORLD ?= emoji
WORK ?= runs/$(WORLD)-model
WORKERS ?= 2
TORTURE ?= runs/torture
PYTEST_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all golden lint type house docs fmt wheel emoji-model torture torture-short clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(STAMP) ## Train the embedded model; each call creates a new folder under runs/
	@output=$(OUTPUT); number=2; \
	while [ -e "$$output" ]; do output=$(OUTPUT)-$$number; number=$$((number + 1)); done; \
	echo "Run folder: $$output"; \
	$(BIN)/b2diffurl train emoji-quickstart --num-processes auto --output "$$output" && echo "Done. Open $$output/report.html"

test: $(STAMP) ## Run the tests, without the slow ones
	$(PYTEST) $(PYTEST_ARGS)

test-all: $(STAMP) ## Run all tests, including the slow ones, and check shapes and dtypes of tensors at run time
	$(PYTEST) -m "" --jaxtyping-packages=b2diffurl,beartype.beartype $(PYTEST_ARGS)

golden: $(STAMP) ## Record the golden rounds of this commit; explain the change in its message
	OMP_NUM_THREADS=1 $(BIN)/python tools/golden.py --write

lint: $(STAMP) ## Check style, format and import order
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

type: $(STAMP) ## Check types
	$(BIN)/pyright

house: $(STAMP) ## Check the architecture's figures against their limits, and ARCHITECTURE.md against the code
	$(BIN)/python tools/house.py
	$(BIN)/python tools/architecture.py --check

docs: $(STAMP) ## Build the documentation site into build/docs; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

fmt: $(STAMP) ## Format the code and sort the imports
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

wheel: $(STAMP) ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

emoji-model: $(STAMP) ## Retrain an embedded model, WORLD=emoji or emoji-objects; resumes where it stopped
	$(BIN)/python -m tools.emoji_model --world $(WORLD) --work $(WORK)

torture: $(STAMP) ## Kill, damage and fuzz tiny runs, and write a table; resumes where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.torture --output $(TORTURE) --seed 0

torture-short: $(STAMP) ## A sample of its cases, at most 3 minutes
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.torture --output "$$folder" --short

clean: ## Remove caches and built files; runs/ and .venv stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first, alone: a version range can pull in several GB of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
