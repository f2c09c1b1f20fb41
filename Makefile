# Requires make and Python 3.11 or newer. Python 3.12 and newer use Django 6.1, older ones Django 5.2, unless DJANGO is
# django52, django60, django61 or djangomain, which is the development version of Django.
PYTHON ?= python3
VENV ?= .venv
ifndef DJANGO
DJANGO := $(shell $(PYTHON) -c 'import sys; print("django61" if sys.version_info >= (3, 12) else "django52")' 2>/dev/null || echo django52)
endif
# The development version is tested with the other packages of the newest release.
CONSTRAINTS := $(if $(filter djangomain,$(DJANGO)),build,constraints)/$(DJANGO).txt
BIN := $(VENV)/bin
MADE := $(VENV)/.made
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo-installed
INSTALL := -m pip install --quiet --disable-pip-version-check
# 'test' installs what the tests need, and no tools.
GROUP ?= dev
# The number of parallel test processes. With 0, all tests run in one process, for a debugger.
WORKERS ?= 3
# If empty, the tests run faster, without measuring coverage.
COVERAGE ?= yes

.NOTPARALLEL:
.PHONY: help install demo adoption ecosystem ecosystem-suites test quick core long lint types imports migrations docs linkcheck pytest bench \
	dist release-check messages constraints ecosystem-constraints ecosystem-suites-constraints \
	release-constraints clean

help:
	@echo "make demo     run the demo (ONCE=1: run it once, without a browser, and exit; SCAN=1: scan first)"
	@echo "make adoption move a Wagtail site to S3 in a real browser (requires chromium and chromedriver)"
	@echo "make quick    run lint, types and the core tests on SQLite before a commit, in under two minutes"
	@echo "make core     run only these tests"
	@echo "make test     run all checks: lint, types, imports, migrations, docs, pytest"
	@echo "make pytest   run only the tests, on every available database (PYTEST_ARGS='-k name')"
	@echo "make lint | types | imports | migrations | docs    run a single check"
	@echo "make linkcheck  check that the links of the docs to other sites work (needs the network)"
	@echo "make ecosystem  run the tests with third-party packages (ECOSYSTEM_SUITES='forms')"
	@echo "make ecosystem-suites  run the own tests of third-party packages with a queued storage (PACKAGES='wagtail')"
	@echo "make long     run the model and race tests for much longer"
	@echo "make bench    run the benchmarks (BENCH_ARGS=--quick: only check that they run)"
	@echo "make messages write new texts of the admin to locale/, and compile the translations (requires gettext)"
	@echo "make dist     build the wheel and the source distribution in dist/"
	@echo "make release-check  also install the wheel, use it, and run tests of the source distribution"
	@echo "make constraints    update the pinned versions in constraints/"
	@echo "make clean    delete environments, caches and build output"

install: $(STAMP)

build/djangomain.txt: constraints/django61.txt
	@mkdir -p $(@D)
	grep -v '^Django==' $< > $@

$(MADE): | $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.x" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make environments. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --upgrade --constraint $(CONSTRAINTS) pip
	@touch $@

$(STAMP): pyproject.toml $(CONSTRAINTS) | $(MADE)
	$(BIN)/python $(INSTALL) --constraint $(CONSTRAINTS) \
		--editable '.[s3,celery]' --group $(GROUP) --group $(DJANGO)
	@touch $@

# The demo alone needs neither the libraries of the tests nor the tools of contributors. The constraints have its Django.
$(DEMO): pyproject.toml $(CONSTRAINTS) | $(MADE)
	$(BIN)/python $(INSTALL) --constraint $(CONSTRAINTS) \
		--editable '.[s3]' --group demo
	@touch $@

demo: $(DEMO)
	ONCE=$(ONCE) SCAN=$(SCAN) $(BIN)/python example/demo.py

# Tests with third-party packages. Each directory of tests/ecosystem has its own settings.
ECOSYSTEM := .venv-ecosystem
ECOSYSTEM_SUITES ?= $(notdir $(patsubst %/settings.py,%,$(wildcard tests/ecosystem/*/settings.py)))
ECOSYSTEM_PACKAGES := --editable '.[s3]' --group ecosystem

# The emulator of Azure Blob Storage for the suite 'remotes'. Without npm, its tests are skipped.
AZURITE := azurite@3.37.0

ecosystem: $(ECOSYSTEM)/.installed $(if $(filter remotes,$(ECOSYSTEM_SUITES)),$(ECOSYSTEM)/node/.installed)
	@for suite in $(ECOSYSTEM_SUITES); do \
		echo "== ecosystem: $$suite"; \
		$(ECOSYSTEM)/bin/python -m pytest -c tests/ecosystem/pytest.ini --rootdir . \
			--ds tests.ecosystem.$$suite.settings tests/ecosystem/$$suite $(PYTEST_ARGS) || exit 1; \
	done

# With DJANGO as above: make ecosystem-suites PYTHON=python3.13. PACKAGES='wagtail' selects packages.
# Downloads the source distributions of the packages, so CI doesn't run it.
SUITES := .venv-ecosystem-suites-$(DJANGO)
SUITES_PACKAGES := --editable . --group ecosystem-suites --group $(DJANGO)

ecosystem-suites: $(SUITES)/.installed
	$(SUITES)/bin/python -m tests.ecosystem.suites $(PACKAGES)

$(SUITES)/.installed: pyproject.toml constraints/ecosystem-suites-$(DJANGO).txt
	$(PYTHON) -m venv $(SUITES)
	$(SUITES)/bin/python $(INSTALL) --upgrade pip
	$(SUITES)/bin/python $(INSTALL) --constraint constraints/ecosystem-suites-$(DJANGO).txt $(SUITES_PACKAGES)
	@touch $@

adoption: $(ECOSYSTEM)/.installed
	$(ECOSYSTEM)/bin/python example/adoption.py

$(ECOSYSTEM)/.installed: pyproject.toml constraints/ecosystem.txt
	$(PYTHON) -m venv $(ECOSYSTEM)
	$(ECOSYSTEM)/bin/python $(INSTALL) --upgrade pip
	$(ECOSYSTEM)/bin/python $(INSTALL) --constraint constraints/ecosystem.txt $(ECOSYSTEM_PACKAGES)
	@touch $@

$(ECOSYSTEM)/node/.installed: $(ECOSYSTEM)/.installed
	@if command -v npm >/dev/null; then \
		mkdir -p $(@D) && npm install --prefix $(@D) --no-audit --no-fund --silent $(AZURITE) && touch $@; \
	else echo "no npm, so no $(AZURITE)" >&2; fi

test: lint types imports migrations docs pytest

# The core tests, without browsers, brokers, object stores, killed processes and benchmarks.
CORE_TESTS := $(addprefix tests/,checks files ledger management operations reporting storage transfers \
	test_checks.py test_conf.py test_fields.py test_health.py test_maintenance.py test_signals.py \
	test_testing.py)

quick: lint types core

core: export QUEUED_STORAGE_TEST_DATABASE = sqlite
core: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 $(CORE_TESTS) --ignore tests/files/test_readcache.py $(PYTEST_ARGS) || { \
		[ -n "$(ONCE_MORE)" ] && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -x; }

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)
	$(BIN)/python -m mypy

imports: $(STAMP)
	$(BIN)/lint-imports

migrations: export DJANGO_SETTINGS_MODULE = tests.settings
migrations: $(STAMP)
	$(BIN)/python -m django check
	$(BIN)/python -m django makemigrations --check --dry-run

# Anew (-E): an index of changed pages alone would not find the others.
docs: $(STAMP)
	@if [ -f docs/conf.py ]; then $(BIN)/python -m sphinx -W -E --keep-going -q docs docs/_build/html; \
	else echo "No docs/conf.py, no docs to build."; fi

# Needs the network, so CI doesn't run it.
linkcheck: $(STAMP)
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

# DATABASES='mariadb sqlite' selects the databases. Tests that need only one database run on the last one, whose coverage
# report includes all databases.
# LANES='mariadb sqlite postgres' divides the tests of 'one_lane' between the runs on these databases.
# With ONCE_MORE=1, as in CI, failed tests run again in a single process, because any timeout can be too short on a busy
# machine. A test that fails twice counts as failed. The traceback of the first failure is in the output.
pytest: export QUEUED_STORAGE_TEST_LANES = $(LANES)
pytest: $(STAMP)
	@$(BIN)/coverage erase
	@databases="$(DATABASES)"; \
	[ -n "$$databases" ] || databases=$$($(BIN)/python -m tests.support.services databases) || exit 1; \
	last=$${databases##* }; \
	for database in $$databases; do \
		report=; marked='not one_database'; \
		if [ $$database = $$last ]; then report=term; marked=; fi; \
		coverage="$(if $(COVERAGE),--cov --cov-append --cov-report=$$report)"; \
		export QUEUED_STORAGE_TEST_DATABASE=$$database; \
		echo "== pytest on $$database, $(DJANGO)"; \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "$$marked" \
			$$coverage $(PYTEST_ARGS) || { \
			[ -n "$(ONCE_MORE)" ] || exit 1; \
			echo "== once more, alone, what failed on $$database, $(DJANGO)"; \
			$(BIN)/python -m pytest --last-failed --last-failed-no-failures none -x -m "$$marked" \
				$$coverage $(PYTEST_ARGS); \
		} || exit 1; \
	done

long: export QUEUED_STORAGE_TEST_MODEL_EXAMPLES ?= 2000
long: export QUEUED_STORAGE_TEST_ROUNDS ?= 400
long: export QUEUED_STORAGE_TEST_OUTAGE_FILES ?= 10000
long: export QUEUED_STORAGE_TEST_LEAK_TRIES ?= 1000
long: export QUEUED_STORAGE_TEST_MOVED_FILES ?= 5000
long: export QUEUED_STORAGE_TEST_MOVED_LARGE ?= 1
long: export QUEUED_STORAGE_TEST_MOVED_MEGABYTES ?= 200
long: export QUEUED_STORAGE_TEST_MIRRORED_FILES ?= 1000
long: export QUEUED_STORAGE_TEST_SMALL_DISK_SECONDS ?= 300
long: $(STAMP)
	$(BIN)/python -m pytest --timeout 0 tests/journeys/test_model.py tests/journeys/test_races.py \
		tests/journeys/test_outages.py tests/journeys/test_moving_live.py \
		tests/journeys/test_mirrors_live.py tests/journeys/test_small_disk.py \
		tests/journeys/test_limits_model.py \
		tests/steps/test_kills.py tests/steps/test_model.py

bench: $(VENV)/.bench-installed
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(VENV)/.bench-installed: $(STAMP)
	$(BIN)/python $(INSTALL) --constraint $(CONSTRAINTS) --group bench
	@touch $@

# Languages that exist; to add one: make messages LANGUAGES=nl
LANGUAGES ?= $(notdir $(patsubst %/LC_MESSAGES,%,$(wildcard src/queued_storage/locale/*/LC_MESSAGES)))

messages: $(STAMP)
	cd src/queued_storage && mkdir -p locale && \
		$(abspath $(BIN))/python -m django makemessages --no-location --no-obsolete --no-wrap \
			$(addprefix --locale ,$(LANGUAGES)) && \
		$(abspath $(BIN))/python -m django compilemessages

RELEASE := .venv-release

dist: $(RELEASE)/.installed
	rm -rf dist
	$(RELEASE)/bin/python -m build --no-isolation
	$(RELEASE)/bin/python -m twine check --strict dist/*

release-check: dist $(STAMP)
	$(BIN)/python -m tests.release.distributions dist

$(RELEASE)/.installed: pyproject.toml constraints/release.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python $(INSTALL) --constraint constraints/release.txt --upgrade pip
	$(RELEASE)/bin/python $(INSTALL) --constraint constraints/release.txt --group release
	@touch $@

# Resolves packages anew, $(1), and writes their versions, as chosen by options of pip freeze, $(2), to a file, $(3).
define resolve
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python $(INSTALL) --upgrade pip
	.venv-constraints/bin/python $(INSTALL) $(1)
	@{ echo "# Written by 'make $@' with $$($(PYTHON) --version)"; \
	.venv-constraints/bin/python -m pip freeze $(2) --exclude setuptools; \
	} > $(3)
	rm -rf .venv-constraints
endef

# Writes the file for the Django version of PYTHON. Use the oldest Python of each, so that it also works on newer ones:
# make constraints PYTHON=python3.11, make constraints PYTHON=python3.12, and the same with DJANGO=django60
RESOLVED := --editable '.[s3,celery]' --group dev --group bench --group $(DJANGO)

constraints:
	$(call resolve,$(RESOLVED),--all --exclude-editable,constraints/$(DJANGO).txt)

ecosystem-constraints:
	$(call resolve,$(ECOSYSTEM_PACKAGES),--exclude-editable,constraints/ecosystem.txt)

# As 'constraints', once for each version of Django
ecosystem-suites-constraints:
	$(call resolve,$(SUITES_PACKAGES),--exclude-editable,constraints/ecosystem-suites-$(DJANGO).txt)

release-constraints:
	$(call resolve,--group release,--all,constraints/release.txt)

clean:
	rm -rf .venv .venv-* .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
		.ruff_cache build dist docs/_build htmlcov
	find . -name __pycache__ -prune -exec rm -rf {} +
