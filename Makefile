# Thin calls of the command line. Variables: PAPER=dlkd|sskd|crd, TABLE=, PROFILE=, SEEDS=, PROTOCOL=, DATA=, TEACHERS=, RESULTS=, CLUSTER=,
# DEVICE=auto|cpu|cuda, PRECISION=, THREADS=, STUDENT_THREADS= (submit takes these four from the cluster file instead), KEEP=all|none,
# TEACHER_CACHE=auto|on|off, ARGS= (anything else, see `python -m benchmark VERB --help`). PY= uses an environment of your own instead of .venv.
PYTHON ?= python3
PAPER ?= dlkd
TABLE ?= $(call table,1)
PY ?= .venv/bin/python
export PROFILE SEEDS PROTOCOL DATA TEACHERS RESULTS PRECISION THREADS STUDENT_THREADS DEVICE KEEP TEACHER_CACHE

# The table of PAPER that is of similar (1) or different (2) architectures.
table = $(or $(NAME_$(PAPER)_$(1)),$(error unknown PAPER '$(PAPER)'; allowed: dlkd, sskd, crd))
NAME_dlkd_1 := dlkd-table1
NAME_dlkd_2 := dlkd-table2
NAME_sskd_1 := sskd-table3
NAME_sskd_2 := sskd-table4
NAME_crd_1 := crd-table1
NAME_crd_2 := crd-table2

# Said before anything is installed: these targets take the tables of PAPER, and TABLE= would be lost.
ifeq ($(origin TABLE),command line)
OF_PAPER := $(filter %-table1 %-table2,$(MAKECMDGOALS))
$(if $(OF_PAPER),$(error TABLE=$(TABLE) with $(OF_PAPER); allowed: PAPER= with it, or TABLE= with reproduce and status))
endif

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
	@echo "make reproduce status TABLE=crd-table1                                    any table of tables/*.toml"
	@echo "make plan-table1 submit-table1 status-table1 diff-table1 (CLUSTER=name)   the same for -table2"
	@echo "make report bench clean docs drill setup                                  clean lists what could go, ARGS=--yes deletes it"
	@echo "make test test-slurm test-report test-all lint"
	@echo "variables: PAPER TABLE PROFILE SEEDS PROTOCOL DATA TEACHERS RESULTS CLUSTER KEEP TEACHER_CACHE ARGS PY"
	@echo "           DEVICE PRECISION THREADS STUDENT_THREADS (submit takes these four from the cluster file)"

.venv/.installed: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

setup: $(DEV)

# Static patterns: an implicit rule is not looked for when its target is .PHONY.
reproduce-table1 reproduce-table2: \
reproduce-table%: $(ENV)
	$(BENCH) reproduce $(call table,$*) $(ARGS)

reproduce: $(ENV)
	$(BENCH) reproduce $(TABLE) $(ARGS)

plan-table1 plan-table2: \
plan-table%: $(ENV)
	$(BENCH) plan $(call table,$*) $(ARGS)

submit-table1 submit-table2: \
submit-table%: $(ENV)
	@test -n "$(CLUSTER)" || { echo "error: CLUSTER= is not set; allowed: the name of a file in slurm/clusters" >&2; exit 2; }
	$(BENCH) submit $(call table,$*) --cluster $(CLUSTER) $(ARGS)

diff-table1 diff-table2: \
diff-table%: $(ENV)
	$(BENCH) diff $(call table,$*) $(ARGS)

status-table1 status-table2: \
status-table%: $(ENV)
	$(BENCH) status $(call table,$*) $(ARGS)

status: $(ENV)
	$(BENCH) status $(TABLE) $(ARGS)

# Of all tables, unless one is named.
report: $(ENV)
	$(BENCH) report $(if $(filter file undefined,$(origin TABLE)),,$(TABLE)) $(ARGS)

bench: $(ENV)
	$(BENCH) bench $(ARGS)

# The suite without services. One thread a worker: the tests' nets are tiny.
test: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadscope tests --ignore=tests/slurm --ignore=tests/report $(ARGS)

test-slurm: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist load tests/slurm $(ARGS)

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
