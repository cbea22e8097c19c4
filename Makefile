# Short names for common commands; `make help` lists them. Variables:
#   PAPER=dlkd|sskd|crd TABLE= PROFILE= SEEDS= PROTOCOL=   what to train
#   DATA= TEACHERS= RESULTS=                               folders
#   DEVICE= PRECISION= THREADS= STUDENT_THREADS=           how to train; `submit` takes these from CLUSTER= instead
#   KEEP=all|none TEACHER_CACHE=auto|on|off NOTIFY=command
#   ARGS=                                                  further options, see `python -m benchmark VERB --help`
#   PY=                                                    a Python to use instead of .venv, which is then not made
PYTHON ?= python3
PAPER ?= dlkd
TABLE ?= $(call table,1)
PY ?= .venv/bin/python
export PROFILE SEEDS PROTOCOL DATA TEACHERS RESULTS PRECISION THREADS STUDENT_THREADS DEVICE KEEP TEACHER_CACHE NOTIFY

# $(call table,N): the table of PAPER with similar (N=1) or different (N=2) architectures.
table = $(or $(NAME_$(PAPER)_$(1)),$(error unknown PAPER '$(PAPER)'; allowed: dlkd, sskd, crd))
NAME_dlkd_1 := dlkd-table1
NAME_dlkd_2 := dlkd-table2
NAME_sskd_1 := sskd-table3
NAME_sskd_2 := sskd-table4
NAME_crd_1 := crd-table1
NAME_crd_2 := crd-table2

# The targets -table1 and -table2 take the tables of PAPER and would ignore TABLE=. Checked before anything is installed.
ifeq ($(origin TABLE),command line)
OF_PAPER := $(filter %-table1 %-table2,$(MAKECMDGOALS))
$(if $(OF_PAPER),$(error TABLE=$(TABLE) cannot be combined with $(OF_PAPER); use PAPER= with it, or TABLE= with reproduce or status))
endif

ifeq ($(PY),.venv/bin/python)
ENV := .venv/.installed
DEV := .venv/.installed-dev
endif
BENCH := $(PY) -m benchmark

.PHONY: help setup reproduce reproduce-table1 reproduce-table2 plan-table1 plan-table2 submit-table1 submit-table2 diff-table1 diff-table2 \
	status-table1 status-table2 status report bench test test-slurm test-report test-all lint docs lock drill clean

help:
	@echo "make reproduce-table1                 train what is missing; print the table"
	@echo "  PAPER=dlkd|sskd|crd PROFILE=quick|short|paper"
	@echo "make reproduce-table2                 the table of different architectures"
	@echo "make plan-table1                      show missing runs and their cost"
	@echo "make status-table1                    show the progress of the runs"
	@echo "make diff-table1                      compare with the published table"
	@echo "make submit-table1 CLUSTER=name       train on a Slurm cluster"
	@echo "  plan, status, diff and submit have a -table2 too"
	@echo "make reproduce status TABLE=crd-table1  the same for any table of tables/"
	@echo "make report                           write one HTML page with all tables"
	@echo "make clean [ARGS=--yes]               list stale runs, or remove them"
	@echo "make bench [ARGS=drift]               measure speed, or what ARGS names"
	@echo "make drill                            interrupt trainings; compare the results"
	@echo "make docs                             update generated parts of the documents"
	@echo "make lock [UV=uv]                     pin dependencies (requirements.lock)"
	@echo "make setup                            make .venv with all tools"
	@echo "make test test-slurm test-report test-all lint    run the tests and checks"
	@echo "variables: PAPER TABLE PROFILE SEEDS PROTOCOL DATA TEACHERS RESULTS CLUSTER"
	@echo "  KEEP TEACHER_CACHE NOTIFY ARGS PY"
	@echo "  DEVICE PRECISION THREADS STUDENT_THREADS (submit: in the cluster file)"

.venv/.installed: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

setup: $(DEV)

# Static patterns, because make does not use implicit rules for targets that are .PHONY.
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
	@test -n "$(CLUSTER)" || { echo "error: CLUSTER= is not set; give the NAME of a clusters/NAME.toml" >&2; exit 2; }
	$(BENCH) submit $(call table,$*) --cluster $(CLUSTER) $(ARGS)

diff-table1 diff-table2: \
diff-table%: $(ENV)
	$(BENCH) diff $(call table,$*) $(ARGS)

status-table1 status-table2: \
status-table%: $(ENV)
	$(BENCH) status $(call table,$*) $(ARGS)

status: $(ENV)
	$(BENCH) status $(TABLE) $(ARGS)

# Without TABLE=, all tables that have a record.
report: $(ENV)
	$(BENCH) report $(if $(filter file undefined,$(origin TABLE)),,$(TABLE)) $(ARGS)

bench: $(ENV)
	$(BENCH) bench $(ARGS)

# The tests that need neither Slurm nor a browser. One thread per worker, because the tests' networks are tiny.
test: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadscope tests --ignore=tests/slurm --ignore=tests/report $(ARGS)

test-slurm: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist load tests/slurm $(ARGS)

test-report: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/report $(ARGS)

test-all: test test-slurm test-report

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check -q .
	$(PY) -m mypy

# Update the parts of README.md and docs/ that are the output of commands.
docs: $(ENV)
	$(PY) docs/generate.py

# Pin what kd-tables needs, with hashes. Without torch and what only its builds need: those depend on the device (docs/running.md).
UV ?= uv
NOT_LOCKED := torch torchvision triton cuda-bindings cuda-pathfinder cuda-toolkit \
	nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile \
	nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink \
	nvidia-nvshmem-cu13 nvidia-nvtx
lock:
	$(UV) pip compile pyproject.toml -c constraints.txt --extra safetensors --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --no-annotate --quiet $(NOT_LOCKED:%=--no-emit-package %) --output-file requirements.lock

# Disturb trainings, let them go on, and compare the records and weights: make drill ARGS="--minutes 10"
drill: $(ENV)
	$(PY) tests/drill $(ARGS)

clean: $(ENV)
	$(BENCH) clean $(ARGS)
