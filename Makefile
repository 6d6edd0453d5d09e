# make demo   sets everything up and trains OCNOpt next to its rivals (under 3 minutes on 2 cores)
# make test   sets everything up and runs the linters, the type checker and the tests
# make soak   1,000 faulty runs and one of 20,000 steps, too long for the tests; writes docs/reliability.md
#
# PYTHON=python3.12     another interpreter (the pins in constraints.txt were resolved on Python 3.11)
# TORCH_INDEX=URL       where torch comes from, e.g. https://download.pytorch.org/whl/cpu for the small CPU build

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL := $(BIN)/pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test soak setup clean

demo: $(STAMP)
	$(BIN)/ocnopt demo

# One thread per test process: two processes that each start a thread per core only wait for each other.
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

soak: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py --write docs/reliability.md

setup: $(STAMP)

# torch goes first and alone, so that TORCH_INDEX decides about it and about nothing else.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(INSTALL) -e ".[lab,ode,flows,sde,tensorboard,trainers,test]"
	touch $@

clean:
	rm -rf $(VENV)
