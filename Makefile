# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := runs/demo
STAMP  := $(VENV)/.installed
SWEEP  := $(BIN)/graticule sweep report-a-demo --photos $(DEMO)/city --out runs/tables --set train.epochs=8

PAGE   := graticule/serving/page/index.html

.PHONY: help install page wheel walk demo docs test test-machines test-machines-cheap lint floors bench leak tables clean

help:            ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Graticule needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing PyTorch and the rest into $(VENV): 7.2 GB, minutes to half an hour; pip says what it is at"
	@$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),$(BIN)/pip install --constraint constraints.txt --index-url $(TORCH_INDEX) torch torchvision)
	@$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "Installed. To call graticule by its name: source $(BIN)/activate"

install: $(STAMP)  ## Make .venv with pinned versions, and the page of `graticule serve` where Node.js is there
	@command -v npm > /dev/null && $(MAKE) --no-print-directory --silent page \
	  || echo "The page is not built: 'make page' builds it with Node.js 20.19 or newer. 'graticule serve' answers programs without it."

page: $(PAGE)    ## Build the page of `graticule serve` (Node.js 20.19 or newer)
$(PAGE): $(shell find web -path web/node_modules -prune -o -type f -print)
	@command -v npm > /dev/null || { echo "The page needs Node.js 20.19 or newer with npm; install it and call make page again"; exit 1; }
	@echo "Building the page of graticule serve: about a minute"
	@cd web && npm ci --silent && npm run --silent build
	@touch $@

wheel: page      ## Build dist/graticule-*.whl with the page inside
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

# The libraries are those of .venv, which installing them anew would take minutes to show; the package is the wheel's.
walk: install wheel  ## The tests of the page on the installed wheel, with the network cut off
	@rm -rf build/walk
	$(PYTHON) -m venv build/walk
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > build/walk/lib/python3.$$($(PYTHON) -c 'import sys; print(sys.version_info[1])')/site-packages/libraries.pth
	build/walk/bin/pip install --quiet --no-deps --no-index --force-reinstall $$(ls -t dist/graticule-*.whl | head -n 1)
	unshare --map-root-user --net build/walk/bin/python tools/offline.py -m pytest --override-ini pythonpath= tests/test_page.py

demo: install    ## A synthetic city: make it, train, evaluate, predict, report
	@rm -rf $(DEMO)
	$(BIN)/graticule data city $(DEMO)/city --frames 2400 --drives 20 --size-km 0.4 --seed 0
	$(BIN)/graticule train demo --photos $(DEMO)/city --out $(DEMO)/bundle
	$(BIN)/graticule evaluate $(DEMO)/bundle $(DEMO)/city --split test --baseline knn --together sequence
	$(BIN)/graticule predict $(DEMO)/bundle $$(ls -d $(DEMO)/city/images/*/ | tail -n 1)0000*.jpg
	$(BIN)/graticule report $(DEMO)/bundle --photos $(DEMO)/city
	@echo "Now drop a photo on it, or play against it: $(BIN)/graticule serve $(DEMO)/bundle --play $(DEMO)/city"

leak: install    ## On the demo city: what a split by frame claims, and what unseen drives show
	@test -d $(DEMO)/city || $(BIN)/graticule data city $(DEMO)/city --frames 2400 --drives 20 --size-km 0.4 --seed 0
	$(BIN)/graticule leak report-a-demo --photos $(DEMO)/city --by random --by sequence

tables: install  ## Both reports' tables on the demo city: small encoders, split by frame and by drive; half an hour
	@test -d $(DEMO)/city || $(BIN)/graticule data city $(DEMO)/city --frames 2400 --drives 20 --size-km 0.4 --seed 0
	$(SWEEP) --vary split.by=random,sequence --encoders test_resnet,test_convnext --vary train.share=1,0.25
	$(SWEEP) --vary split.by=random,sequence --encoders test_vit --vary train.share=1,0.25 --set 'encoder.options={img_size: [96, 128]}'
	$(SWEEP) --vary split.by=sequence --encoders test_resnet --vary head.kind=both --vary target.alpha=1,5,10
	$(SWEEP) --vary split.by=sequence --encoders test_resnet --vary head.kind=position --set 'target={}' --set answer=regressed
	$(BIN)/graticule table a --runs runs/tables --out runs/tables/tables.md

test: install    ## Run the tests
	$(BIN)/python -m pytest -n auto --dist loadfile

# Other machines, as far as one machine can be them: another locale and time zone, a processor with bfloat16 and one without.
MACHINE := LC_ALL=C LANG=C TZ=Pacific/Kiritimati
CHEAP   := $(addprefix tests/test_,machine.py times.py photos.py config.py locate.py explain.py train.py)

test-machines: install  ## Run the tests as other machines would
	$(MACHINE) GRATICULE_TEST_BFLOAT16=0 $(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)
	$(MACHINE) GRATICULE_TEST_BFLOAT16=1 $(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)

test-machines-cheap: install  ## The same for the tests that a machine could sway, in about a minute
	$(MACHINE) GRATICULE_TEST_BFLOAT16=1 $(BIN)/python -m pytest -n auto --dist loadfile $(CHEAP) -k 'not killed and not ctrl_c'

lint: install    ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

floors:          ## Write the table of floors into docs/architecture.md
	$(PYTHON) tools/floors.py

docs: install    ## Build the site into build/site; its tools are installed the first time
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict --site-dir build/site

bench: install   ## Run the benchmarks; each prints ratios in one run
	$(BIN)/python -m bench

clean:           ## Remove what make made
	rm -rf $(VENV) $(DEMO)
