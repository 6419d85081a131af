# `make` lists the targets. `demo` and `test` set up .venv themselves when it is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?=
VENV := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-long test-configs configs lint bench comparison teachers

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## make .venv with the tested set, mmcv's operators compiled (3 to 6 minutes, once); TORCH="words for pip" picks torch
	@$(PYTHON) tools/setup_env.py $(if $(TORCH),--torch '$(TORCH)')

demo: setup  ## distil a detector and a segmenter on the shipped samples, and compare (14 minutes on 2 cores)
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(VENV)/python tools/demo  # passive: a busy machine costs time, not a standstill

test: setup  ## prove it: values, gradients, checkpoints, configs (8 minutes at most on 2 cores)
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 --dist loadfile

test-fast: setup  ## the mathematics and the units, without trainings, processes and whole networks (1 minute)
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 --dist loadfile -m 'not slow and not long'

test-long: setup  ## the rest of docs/reliability.md: kills, wrong inputs, 2,000 steps, 10 minutes of fuzzing (20 minutes)
	@OMP_NUM_THREADS=1 FREQKD_FUZZ_SECONDS=600 $(VENV)/python -m pytest -n 2 --dist load -m long

test-configs: setup  ## every config takes a step on real images from $FREQKD_DATA, with the losses kept in tests/ (6 minutes)
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 --dist loadgroup -m configs tests/test_every_config.py

configs: setup  ## train every sample config for 20 steps and check that all terms are finite and pull (3 minutes)
	@FREQKD_CONFIG_STEPS=20 $(VENV)/python -m pytest tests/adapters/test_sample_configs.py

lint: setup  ## ruff, mypy (strict on the mathematics), import rules
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/lint-imports --no-cache

bench: setup  ## measure losses, steps and scaling, and write docs/benchmarks.md (10 minutes on a quiet machine)
	@$(VENV)/python benchmarks/loss_speed.py 2> /dev/null
	@$(VENV)/python benchmarks/loss_speed.py --keep-memory 2> /dev/null
	@$(VENV)/python benchmarks/launches.py 2> /dev/null
	@$(VENV)/python benchmarks/scaling.py 2> /dev/null
	@$(VENV)/python benchmarks/iteration_speed.py 2> /dev/null
	@$(VENV)/python benchmarks/cached_step.py 2> /dev/null
	@$(VENV)/python benchmarks/report.py

comparison: setup  ## write the numbers of studies/results into docs/comparison.md, docs/methods.md and README.md
	@$(VENV)/python -m freqkd.studies.page docs/comparison.md README.md
	@$(VENV)/python tools/write_methods_table.py

teachers: setup  ## train the shipped teachers again from nothing (25 minutes on 2 cores)
	@$(VENV)/python tools/train_teachers.py
