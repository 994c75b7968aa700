# Everything here needs python3 and make, and nothing else. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/stamps
# `make test PROCESSES=2` shares the tests between two processes, as tests/spreading.py says.
PROCESSES ?= 1
SPREAD = $(if $(filter-out 1,$(PROCESSES)),-p tests.spreading -n $(PROCESSES) --dist loadscope --no-loadscope-reorder)
# Of the live Airflow's tests of pods those that every change must pass on a real cluster.
IN_PODS := $(addprefix tests/airflow/test_kubernetes_scheduler.py::,test_a_whole_run_in_pods \
	test_labels_say_whose_pods_they_are test_no_secret_reaches_spec_log_xcom_or_rendered_template \
	test_kill_is_kill_and_nothing_else_is)
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help demo ui stack stack-check test test-faults test-kubernetes test-stack bench docs lint wheel clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target text; do printf '%-23s %s\n' "$$target" "$$text"; done

$(STAMPS)/%: scripts/bootstrap.py pyproject.toml constraints.txt
	@$(PYTHON) scripts/bootstrap.py $*

demo: $(STAMPS)/run  ## compute real footprints with Airflow on this machine, then stop it
	@$(BIN)/python scripts/demo.py

ui: $(STAMPS)/run  ## the same Airflow, left up until Ctrl-C; prints its address and login
	@$(BIN)/python scripts/demo.py --ui

stack:  ## check, then Airflow, PostgreSQL, Slurm and S3 in containers; prints the login
	@$(PYTHON) scripts/stack.py

stack-check:  ## say what is in the way of the stack
	@$(PYTHON) scripts/stack.py --check

test: $(STAMPS)/test  ## every check and test but the fault matrix and the stack
	@scripts/install_services.sh
	@$(BIN)/python -m pytest $(SPREAD) -m "not faults and not images and not stack"

test-faults: $(STAMPS)/test  ## the full fault matrix; kills in the stack where Docker answers
	@scripts/install_services.sh
	@$(BIN)/python -m pytest -m "faults and not stack"
	@if docker info >/dev/null 2>&1; then $(BIN)/python -m pytest -m "faults and stack" tests/stack; \
	else echo "NOT RUN: kills of the stack's containers, because no Docker engine answers" >&2; fi

test-kubernetes: $(STAMPS)/test  ## what runs in pods, on the cluster of KUBECONFIG, and the images
	@test -n "$$KUBECONFIG" || { echo "set KUBECONFIG, ENSEMBLE_TEST_KUBE_IMAGE and" \
		"ENSEMBLE_TEST_KUBE_HOST: docs/development.rst says to what" >&2; exit 2; }
	@scripts/install_services.sh
	@$(BIN)/python -m pytest -m "(kubernetes or images) and not faults" tests/kubernetes $(IN_PODS)

test-stack: $(STAMPS)/test  ## the stack of containers: its DAGs, and what kills do to them
	@AIRFLOW_PORT=0 POSTGRES_PORT=0 S3_PORT=0 $(PYTHON) scripts/stack.py --check
	@$(BIN)/python -m pytest -m "stack and not faults" tests/stack

lint: $(STAMPS)/test  ## ruff, mypy and the import contracts alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

docs: $(STAMPS)/test  ## build the documentation into docs/_build/html
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

bench: $(STAMPS)/bench  ## run the benchmarks and print their tables
	@scripts/install_services.sh
	@$(BIN)/python benchmarks/run.py

wheel: $(STAMPS)/test  ## build the wheel and the source archive into dist/
	@$(BIN)/uv build --quiet --out-dir dist
	@ls dist/*

constraints.txt: ;

.PHONY: constraints
constraints: $(STAMPS)/test  ## bring the pinned versions up to date
	$(BIN)/uv pip compile pyproject.toml --all-extras --group test --group docs --group bench \
		--universal --python-version 3.11 --upgrade --quiet \
		--no-emit-index-url --no-header --no-annotate --output-file constraints.txt

clean:  ## remove .venv and all that was built or computed here
	rm -rf .venv .airflow demo-output dist build docs/_build \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
