# make run | test | check | bench | deb | venv | clean | help.  PYTHON=/path/to/python3 picks the interpreter, MODE=watch only watches.
# What is installed, and how, stands in etc/setup.sh; what `run` finds and does, in denyspam/discover.py.

PYTHON ?=
MODE   ?= enforce
BIN    := .venv/bin

LINES  ?= 3000000
MINUTES ?= 30
EXAMPLES ?= 5000

.PHONY: pictures agree help run test check venv system score soak faults fuzz bench deb deb-test clean
.DEFAULT_GOAL := help

help:
	@echo "make run             find this host's mail logs and start banning; without a mail server: a demonstration"
	@echo "make run MODE=watch  the same, but decide and report only: the firewall is not touched"
	@echo "make test            install what is missing and run every test"
	@echo "make check           the linters and the type checker alone"
	@echo "make score           what the filters find in labelled lines"
	@echo "make agree           the fast reading of logs against the simple one (LINES=3000000)"
	@echo "make soak            a daemon under load, with faults, for half an hour (MINUTES=30)"
	@echo "make faults          the tests of faults in their long form (a quarter of an hour)"
	@echo "make fuzz            every parser before texts that are changed anywhere (EXAMPLES=5000 each; some minutes)"
	@echo "make bench           measure speed, memory and the firewall, and write docs/benchmarks.md (ten minutes)"
	@echo "make pictures        the pictures of docs/, made by a browser, of a made-up month and a busy log (chromium, root; three minutes)"
	@echo "make deb             build dist/denyspam.deb, a package for this release of Debian or Ubuntu"
	@echo "make deb-test        install, upgrade, use and purge it under a systemd of its own (root; four minutes)"
	@echo "make venv            only build .venv with the program in it (PYTHON=... picks the interpreter)"
	@echo "make clean           remove .venv and what was built; .run, with the bans of make run, stays"

system:
	@sh etc/setup.sh system "$(PYTHON)"

venv: system
	@sh etc/setup.sh venv "$(PYTHON)"

run: venv
	@exec $(BIN)/python -m denyspam.discover --run --folder .run --mode $(MODE)

check: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: check
	@sh etc/setup.sh tests "$(PYTHON)"
	@$(BIN)/pytest -n 2 --dist loadgroup

score: venv
	@$(BIN)/python tests/score.py

agree: venv
	@$(BIN)/python tests/agree.py $(LINES)

soak: venv
	@$(BIN)/python tests/soak.py --minutes $(MINUTES)

faults: venv
	@DENYSPAM_KILLS=34 DENYSPAM_FAULTS=20 DENYSPAM_ROTATIONS=100 $(BIN)/pytest tests/test_kill.py tests/test_faults*.py

fuzz: venv
	@DENYSPAM_FUZZ=$(EXAMPLES) $(BIN)/pytest -n 2 tests/test_fuzz.py

bench: venv
	@$(BIN)/python -m bench

pictures: venv
	@$(BIN)/python tests/pictures.py

deb: venv
	@sh etc/deb.sh

deb-test: venv
	@DENYSPAM_TEST_DEB=1 $(BIN)/pytest tests/test_deb.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
