# Thin calls of the command line. Variables: PAPER=dlkd|sskd|crd, TABLE=, PROFILE=, SEEDS=, PROTOCOL=, DATA=, TEACHERS=, RESULTS=, CLUSTER=,
# PRECISION=, THREADS=, ARGS= (anything else, see `python -m benchmark VERB --help`). PY= uses an environment of your own instead of .venv.
PYTHON ?= python3
PAPER ?= dlkd
TABLE ?= $(PAPER)-table1
PY ?= .venv/bin/python
export PROFILE SEEDS PROTOCOL DATA TEACHERS RESULTS PRECISION THREADS STUDENT_THREADS DEVICE KEEP

ifeq ($(PY),.venv/bin/python)
ENV := .venv/.installed
DEV := .venv/.installed-dev
endif
BENCH := $(PY) -m benchmark

.PHONY: help setup reproduce reproduce-table1 reproduce-table2 plan-table1 plan-table2 submit-table1 submit-table2 diff-table1 diff-table2 \
	status-table1 status-table2 status report bench test test-slurm test-report test-all lint docs drill clean

help:
	@echo "make reproduce-table1 [PAPER=dlkd|sskd|crd] [PROFILE=quick|short|paper]   similar architectures: train what is missing, table, diff"
	@echo "make reproduce-table2                                                     different architectures"
	@echo "make reproduce TABLE=crd-table1                                           any table of tables/*.toml"
	@echo "make plan-table1 submit-table1 status-table1 diff-table1 (CLUSTER=name)   the same for -table2"
	@echo "make report bench docs drill test test-slurm test-report lint setup"

.venv/.installed: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

setup: $(DEV)

reproduce-table1: $(ENV)
	$(BENCH) reproduce --paper $(PAPER) --number 1 $(ARGS)

reproduce-table2: $(ENV)
	$(BENCH) reproduce --paper $(PAPER) --number 2 $(ARGS)

reproduce: $(ENV)
	$(BENCH) reproduce $(TABLE) $(ARGS)

NAME_dlkd_1 := dlkd-table1
NAME_dlkd_2 := dlkd-table2
NAME_sskd_1 := sskd-table3
NAME_sskd_2 := sskd-table4
NAME_crd_1 := crd-table1
NAME_crd_2 := crd-table2

plan-table%: $(ENV)
	$(BENCH) plan $(NAME_$(PAPER)_$*) $(ARGS)

submit-table%: $(ENV)
	@test -n "$(CLUSTER)" || { echo "error: CLUSTER= is not set; allowed: the name of a file in slurm/clusters" >&2; exit 2; }
	$(BENCH) submit $(NAME_$(PAPER)_$*) --cluster $(CLUSTER) $(ARGS)

diff-table%: $(ENV)
	$(BENCH) diff $(NAME_$(PAPER)_$*) $(ARGS)

status-table%: $(ENV)
	$(BENCH) status $(NAME_$(PAPER)_$*) $(ARGS)

status: $(ENV)
	$(BENCH) status $(TABLE) $(ARGS)

report: $(ENV)
	$(BENCH) report $(ARGS)

bench: $(ENV)
	$(BENCH) bench $(ARGS)

# The suite without services. One thread a worker: the tests' nets are tiny.
test: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadscope tests --ignore=tests/slurm --ignore=tests/report $(ARGS)

test-slurm: $(DEV)
	$(PY) -m pytest -q tests/slurm $(ARGS)

test-report: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/report $(ARGS)

test-all: test test-slurm test-report

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m mypy

# The blocks of README.md and docs/ that commands make.
docs: $(ENV)
	$(PY) docs/generate.py

# Kills at truly random moments, as long as you like: make drill ARGS="--minutes 10"
drill: $(ENV)
	$(PY) tests/drill_kill.py $(ARGS)

clean: $(ENV)
	$(BENCH) clean $(ARGS)
