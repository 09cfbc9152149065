# Everything a person needs: make setup | tools | demo | test | test-all | fuzz | durability | lint | docs | pictures | lock | install | bench | evidence | auto | budget | sweep
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export MPLBACKEND = Agg
export CASEWISE_CACHE ?= $(CURDIR)/.cache

.PHONY: golden setup tools demo test test-all fuzz durability lint docs pictures bench evidence auto budget sweep lock install clean

# The core alone, which draws phantoms, too: what `make demo` needs
setup: $(VENV)/.done

# Every optional part, and the tools that check them
tools: $(VENV)/.tools

INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('casewise needs Python 3.11 or newer') if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.tools: $(VENV)/.done
	$(INSTALL) -e ".[heic,dicom,slides,volumes,explain,export,hospital,sign,trials,serve,node,ray,track,dev]"
	touch $@

demo: setup
	$(BIN)/casewise phantom runs/demo-cohort --subjects 20 --visits 6 --size 320x212 --seed 1
	$(BIN)/casewise run studies/demo.yaml --output runs/demo

# The core, the golden pages, and some tests of every plugin; PLUGIN=node: all tests of one plugin but the slowest
test: tools
	$(BIN)/python -m pytest $(if $(PLUGIN),tests/plugins/$(PLUGIN) -m "not slow",-m "not slow and not thorough") -n 2 --dist loadfile

# Golden pages and figures, after a change that is meant to move them: read the difference before committing it.
golden: tools
	CASEWISE_GOLDEN=1 $(BIN)/python -m pytest tests -k golden

# MARKS="thorough and not slow": what `make test` leaves out, without the slowest
test-all: tools
	$(BIN)/python -m pytest tests src/casewise benchmarks/test_benchmarks.py $(if $(MARKS),-m "$(MARKS)") -n 2 --dist loadfile

lint: tools
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Executes the tutorials and takes their pictures again; needs Chromium
pictures: tools
	$(BIN)/python docs/pictures.py

docs: tools
	$(BIN)/python docs/build.py

$(VENV)/.bench: $(VENV)/.tools
	$(INSTALL) -e ".[bench]"
	touch $@

# About an hour on two quiet cores. A benchmark that fails is named at the end, and the others are still measured.
bench: $(VENV)/.bench
	$(BIN)/python -m pytest benchmarks/test_benchmarks.py
	@failed=; for each in speed "training --short" "serve --minutes 2" "coverage --studies 200" multiplicity null; do \
		set -- $$each; name=$$1; shift; echo; echo "== $$name $$*"; \
		$(BIN)/python benchmarks/$$name.py "$$@" || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# Missing pages of docs/results and the index; may be interrupted and continued. A page stays valid for the commit that it
# names. EVIDENCE="--only PAGE" makes a page again, EVIDENCE=--release every page of an earlier version
evidence: $(VENV)/.bench
	$(BIN)/python benchmarks/evidence.py $(EVIDENCE) $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS))

# Planned recipes on the packs of studies/auto; DATA and WEIGHTS: their folders, if not ../shared/data and ../shared/weights
auto: tools
	$(BIN)/python benchmarks/auto.py $(AUTO) $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS)) \
		--handwritten runs --output docs/results/auto.md
	$(BIN)/python benchmarks/peers.py --runs runs/auto --record

# The time that planned runs use, of the time that they may use: half an hour
# Budgets that limit the epochs on a quiet machine: make budget SKIN=48 FILMS=600 MINUTES=1
SKIN ?= 12
FILMS ?= 60
MINUTES ?= 2 3
PAGE ?= docs/results/budget.md
budget: setup
	rm -rf runs/budget
	$(BIN)/casewise phantom runs/budget/skin --subjects $(SKIN) --visits 3 --size 160x106
	$(BIN)/casewise phantom runs/budget/films --kind chest --size 96x96 --subjects $(FILMS)
	$(BIN)/casewise phantom runs/budget/external --kind chest --size 96x96 --subjects 40 --seed 1
	$(BIN)/casewise phantom runs/budget/other --kind chest --size 96x96 --subjects 40 --seed 2
	$(BIN)/python benchmarks/auto.py --budget $(MINUTES) --runs runs/budget --output $(PAGE)

# Mutated inputs for every reader: each is read or refused with a typed error (FUZZ="--count 100000 --only table" for
# others). Then the property tests, with examples that `make test` does not draw. SEED=7 repeats a run.
fuzz: tools
	@seed=$${SEED:-$$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}; echo "seed $$seed; SEED=$$seed repeats this run"; \
	$(BIN)/python -m tests.fuzz --seed $$seed $(FUZZ) && \
	$(BIN)/python -m pytest -m hypothesis -n 2 --dist loadfile --hypothesis-profile random --hypothesis-seed $$seed

# Runs that are killed at random moments, and continued. DURABILITY="--kills 20 --faults 20 --seed 7" for others
durability: tools
	$(BIN)/python -m tests.durability $(DURABILITY)

# The versions and hashes of everything that an installation with all extras needs. Needs uv
LOCKED = heic dicom slides volumes explain export hospital sign trials serve node ray track
lock:
	uv pip compile pyproject.toml $(addprefix --extra ,$(LOCKED)) --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --constraint constraints.txt --output-file requirements.lock

# The wheel in fresh environments, with each extra alone and all together, in several versions of Python and of packages:
# INSTALL_OPTIONS="--python 3.11 3.12 3.13 --versions pinned lowest newest". Needs uv; an hour for each
install: tools
	$(BIN)/python -m tests.install $(INSTALL_OPTIONS)

# All 145 networks of One-Step PASI on a synthetic cohort, ended by SIGKILL three times: half an hour to hours, and 40 GB of disk
sweep: tools
	$(BIN)/python benchmarks/sweep.py --output docs/results/sweep.md

clean:
	rm -rf runs .cache .mypy_cache .ruff_cache .import_linter_cache
