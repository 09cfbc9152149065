# Everything a person needs: make setup | tools | demo | test | test-all | fuzz | durability | lint | docs | pictures | bench | evidence | auto | budget | sweep
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export MPLBACKEND = Agg
export CASEWISE_CACHE ?= $(CURDIR)/.cache

.PHONY: golden setup tools demo test test-all fuzz durability lint docs pictures bench evidence auto budget results sweep clean

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

test: tools
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# The golden pages of the report, after a change of wording: read the difference before committing it.
golden: tools
	CASEWISE_GOLDEN=1 $(BIN)/python -m pytest tests/test_report_golden.py

test-all: tools
	$(BIN)/python -m pytest tests src/casewise benchmarks/test_benchmarks.py -n 2 --dist loadfile

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

# Every page of docs/results on the present commit, and their index; may be interrupted and continued
evidence: $(VENV)/.bench
	$(BIN)/python benchmarks/evidence.py $(EVIDENCE) $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS))

# Planned recipes on the packs of studies/auto; DATA and WEIGHTS: their folders, if not ../shared/data and ../shared/weights
auto: tools
	$(BIN)/python benchmarks/auto.py $(AUTO) $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS)) \
		--handwritten runs --output docs/results/auto.md

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

results: $(VENV)/.bench
	$(BIN)/casewise run studies/covid-cxr.yaml
	$(BIN)/casewise run studies/covid-cxr-hold-out.yaml
	$(BIN)/casewise results runs/covid-cxr-hold-out --output docs/results/covid-cxr-hold-out.md
	$(BIN)/casewise run studies/covid-in-cohen.yaml
	$(BIN)/casewise run studies/covid-cxr-by-source.yaml
	$(BIN)/casewise run studies/idrid.yaml
	$(BIN)/casewise results runs/covid-cxr --output docs/results/covid-cxr.md
	$(BIN)/casewise results runs/covid-in-cohen --output docs/results/covid-in-cohen.md
	$(BIN)/casewise results runs/covid-cxr-by-source --output docs/results/covid-cxr-by-source.md
	$(BIN)/casewise results runs/idrid --output docs/results/idrid.md
	$(BIN)/casewise run studies/covid-severity.yaml
	$(BIN)/casewise run studies/covid-severity-pretrained.yaml
	$(BIN)/casewise results runs/covid-severity --compare runs/covid-severity-pretrained --output docs/results/covid-severity.md
	$(BIN)/casewise phantom runs/skin-cohort --kind slides --subjects 40 --seed 4
	for study in hpylori hpylori-cnn hpylori-unet hpylori-patient hpylori-mean hpylori-attention oral skin-phantom \
		skin-phantom-three; do \
		$(BIN)/casewise run studies/$$study.yaml || exit; done
	$(BIN)/casewise results runs/hpylori --compare runs/hpylori-cnn --compare runs/hpylori-unet \
		--output docs/results/hpylori.md
	$(BIN)/casewise results runs/hpylori-patient --compare runs/hpylori-mean --compare runs/hpylori-attention \
		--output docs/results/hpylori-patient.md
	$(BIN)/casewise results runs/oral --output docs/results/oral.md
	$(BIN)/casewise results runs/skin-phantom --output docs/results/skin-phantom.md
	$(BIN)/casewise results runs/skin-phantom-three --output docs/results/skin-phantom-three.md
	$(BIN)/python benchmarks/imitations.py --output docs/results/imitations.md
	$(BIN)/python benchmarks/coverage.py --output docs/results/coverage.md
	$(BIN)/python benchmarks/overlays.py --data ../shared/data --output docs/results/overlays.md
	$(BIN)/python benchmarks/patients.py --data ../shared/data --weights ../shared/weights --output docs/results/patients.md
	$(BIN)/python benchmarks/conformal.py --output docs/results/prediction-coverage.md
	$(BIN)/casewise phantom runs/pancreas-cohort --kind pancreas --subjects 60 --seed 6
	$(BIN)/casewise phantom runs/planted-cohort --kind pancreas --subjects 120 --classes normal,high \
		--lesion planted --seed 7
	for study in ipmn-phantom ipmn-six pancreas-planted pancreas-planted-fine lgg lgg-tumour lgg-histology lgg-grade lgg-missing-mask; do \
		$(BIN)/casewise run studies/$$study.yaml || exit; done
	$(BIN)/casewise explain runs/ipmn-phantom --measure --map-size 12
	$(BIN)/casewise explain runs/pancreas-planted --measure --map-size 24
	$(BIN)/casewise explain runs/pancreas-planted-fine --measure --map-size 36
	$(BIN)/casewise explain runs/lgg-tumour --measure --map-size 6
	$(BIN)/casewise results runs/ipmn-phantom --output docs/results/ipmn-phantom.md
	$(BIN)/casewise results runs/pancreas-planted --output docs/results/pancreas-planted.md
	$(BIN)/casewise results runs/pancreas-planted-fine --output docs/results/pancreas-planted-fine.md
	$(BIN)/casewise results runs/lgg --output docs/results/lgg.md
	for study in lgg-tumour lgg-histology lgg-grade lgg-missing-mask; do \
		$(BIN)/casewise results runs/$$study --output docs/results/$$study.md || exit; done
	$(BIN)/casewise phantom runs/chest-cohort --kind chest --subjects 700 --size 192x192 --seed 5
	$(BIN)/casewise run studies/chest-phantom.yaml
	$(BIN)/casewise run studies/chest-eight.yaml
	$(BIN)/casewise results runs/chest-phantom --output docs/results/chest-phantom.md
	$(BIN)/casewise phantom runs/phantom-cohort --subjects 30 --size 320x212 --seed 2
	$(BIN)/casewise phantom runs/phantom-shuffled-cohort --subjects 30 --size 320x212 --seed 2 --labels shuffled
	$(BIN)/casewise run studies/phantom.yaml
	$(BIN)/casewise run studies/phantom-shuffled.yaml
	$(BIN)/casewise results runs/phantom --compare runs/phantom-shuffled --output docs/results/phantom.md

# All 145 networks of One-Step PASI on a synthetic cohort, ended by SIGKILL three times: half an hour to hours, and 40 GB of disk
sweep: tools
	$(BIN)/python benchmarks/sweep.py --output docs/results/sweep.md
	$(BIN)/python benchmarks/travelling.py --output docs/results/travelling.md

clean:
	rm -rf runs .cache .mypy_cache .ruff_cache .import_linter_cache
