# make figures   set up, run what is missing, execute every notebook
#                (PROFILE=smoke|quick|cpu|gpu|paper  ONLY=fig01_overview  JOBS=2  DEVICE=cpu)
# make test      set up, then all checks
# make lab       set up, then JupyterLab
# make explore   set up, then slots to explore as a page, on this machine alone (PORT=8866)
# make verify    train the first steps of committed runs again, and compare; score weights again
# make faults    break things on purpose, and count what is survived: docs/reliability.md
# make evidence  perform the runs of docs/protocol.md that are missing: hours
# make bench     time what matters, beside other people's code; with nothing else running
#                (SLATE_CODE=folder for the authors')
# make lock      write requirements.lock anew, for maintainers
# make versions  try the lowest and the highest versions that pyproject.toml allows, for maintainers
#                (PYTHON=python3.12)

PROFILE ?= quick
ONLY    ?=
JOBS    ?= 2
DEVICE  ?= cpu
PORT    ?= 8866
PYTHON  ?= python3

BIN  := .venv/bin
DONE := .venv/installed
READ := .venv/installed-site

# the programs of an environment know their place: in a checkout that was moved, or copied with all
# that is in it, they would fail, or run the code that lies in the old place
MOVED := $(shell test -f .venv/bin/activate && ! test -L .venv && \
	{ grep -qF "$$(pwd -P)/.venv" .venv/bin/activate || echo moved; })

.PHONY: figures explore test site verify faults evidence lab bench setup stored lock versions moved
.DELETE_ON_ERROR:

setup: $(DONE)

moved:
	@echo "This checkout was set up in another place: its .venv is set up anew"
	@rm -rf .venv

$(DONE): pyproject.toml $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -d .venv || { echo "Setting up .venv (once; PyTorch is a large download)"; $(PYTHON) -m venv .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $(DONE)

figures: setup
	@$(BIN)/python -m paper_lib.paper.batch $(PROFILE) --jobs $(JOBS) --device $(DEVICE) $(if $(ONLY),--only $(ONLY))

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests -n $(JOBS) --dist worksteal
	# the notebooks write their figures and tables elsewhere: a check leaves the tree as it is
	OUT=$$(mktemp -d) && PAPER_FIGURES=$$OUT PAPER_TABLES=$$OUT \
	$(BIN)/python -m pytest --nbval --nbval-current-env notebooks; \
	status=$$?; rm -rf $$OUT; exit $$status

$(READ): $(DONE)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[site]'
	@touch $(READ)

site: $(READ)
	@rm -rf site docs/api
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs/site -d site/.doctrees . site
	@echo "site/index.html"

# the first steps of committed runs, trained again here, against their curves; and the weights that
# come with the repository, against the scores that their runs recorded
verify: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m paper_lib.paper.verify --jobs $(JOBS)
	@$(BIN)/python -m paper_lib.explore.trained

# rotten and hostile files, a full disk, senseless input, kills: docs/reliability.md
# (KILLS=3 of each kind of work, CASES=1000 of each kind of input)
KILLS ?= 3
CASES ?= 1000
faults: setup
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m faults --cases $(CASES) --kills $(KILLS)

# the runs of docs/protocol.md that are missing: hours
evidence: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m paper_lib.paper.evidence --jobs $(JOBS)

lab: setup
	@$(BIN)/jupyter lab notebooks

explore: setup
	@JUPYTER_PATH="$(CURDIR)/paper_lib/explore" $(BIN)/voila notebooks/explore_slots.ipynb \
		--template=plain --Voila.ip=127.0.0.1 --port=$(PORT) --no-browser

bench: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@OMP_NUM_THREADS=1 $(BIN)/python -m bench

# for maintainers: replay the committed results into the stored notebooks, figures/cpu,
# results/cpu/tables and the README's table of claims
stored: setup
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb
	$(BIN)/python -m paper_lib.paper.claims_table

# for maintainers: the exact versions of everything, for Linux and Python 3.11 and newer
lock: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

versions: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python .ci/versions.py $(PYTHON)
