# make demo    the built-in recipe, from synthetic raw data to submission and report
# make test    the default test suite, in two processes (PYTEST="-m 'not slurm'" adds the long tests)
# make check   formats, lints and types
# make bench   every speed claim, measured here
# Each sets up .venv first, once.

PYTHON ?= python3
ENVIRONMENT = . .venv/bin/activate &&

.PHONY: demo test check bench format clean

demo: .venv/ready
	$(ENVIRONMENT) snakemake --cores 1 --resources gpu=1

test: .venv/ready
	$(ENVIRONMENT) pytest -n 2 --dist loadgroup --no-loadscope-reorder $(PYTEST)

check: .venv/ready
	$(ENVIRONMENT) ruff check && ruff format --check
	$(ENVIRONMENT) snakefmt --check Snakefile workflow
	$(ENVIRONMENT) mypy
	$(ENVIRONMENT) snakemake --lint

bench: .venv/ready
	$(ENVIRONMENT) python -m benchmarks

format: .venv/ready
	$(ENVIRONMENT) ruff check --fix && ruff format
	$(ENVIRONMENT) snakefmt Snakefile workflow

clean:
	rm -rf .venv results .snakemake

# torch and torchvision come as one pair from one index: a mixed pair breaks segmentation_models_pytorch.
.venv/ready: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(ENVIRONMENT) pip install --quiet --constraint constraints.txt torch torchvision
	$(ENVIRONMENT) pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
