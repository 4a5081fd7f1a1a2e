# Every target sets up what it needs: a virtual environment in .venv, from the pinned and hashed requirements.lock.
.DEFAULT_GOAL := help
.PHONY: help setup demo up down test check bench repro lock clean

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/ready: requirements.lock pyproject.toml infra/bootstrap.lock infra/setup.sh
	@infra/setup.sh

setup: .venv/ready  ## install everything into .venv

demo: setup  ## pretrain on 5,000 digits, transfer to 100 others, evaluate, register (two to six minutes; a second time: seconds)
	@genxfer run

up: setup  ## start the local stack: Prefect, MLflow, a worker; FULL=1 adds PostgreSQL and S3 (docs/operate.md)
	@genxfer up $(if $(FULL),--full)

down: setup  ## stop the local stack; its data stays
	@genxfer down

test: setup check  ## what `check` does, then every test
	@infra/system-packages.sh
	pytest --numprocesses 2 --dist loadfile

check: setup  ## check the style, the types and the import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: setup  ## measure how fast training and the metrics are, and what the transfer gains (hours on two cores)
	python benchmarks/training.py
	python benchmarks/processes.py
	python benchmarks/fidelity.py
	python benchmarks/sampling.py
	python benchmarks/transfer_gain.py

repro: setup  ## reproduce the results with DVC
	dvc repro

lock: setup  ## resolve the dependencies anew
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 pyproject.toml --all-extras --output-file requirements.lock
	echo uv==$$(uv --version | cut -d' ' -f2) | uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header - --output-file infra/bootstrap.lock

clean:  ## stop the stack, remove the results and the cache, keep .venv and data
	@[ ! -d .genxfer/stack ] || genxfer down
	rm -rf .genxfer artifacts mlflow.db mlartifacts dvc.lock
