# A fresh clone needs Python 3.11 or newer and PyPI, nothing else. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
OUT ?= out
LIMIT ?= 360
BIN := .venv/bin
READY := .venv/.ready
ENGINES := .venv/.ready-engines
SLOW := .venv/.ready-slow
TRAIN := .venv/.ready-train
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements.lock
PACK := build/gpu-pack
NANO_PACK := build/nano-pack
NANO_LIMIT ?= 560
# Wheels for a machine of another kind: Linux on x86-64 with Python 3.12.
WHEELS := $(BIN)/python -m pip download -qq --disable-pip-version-check -c requirements.lock --no-deps --only-binary=:all: \
	--python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none --platform any \
	$(addprefix --platform manylinux,_2_34_x86_64 _2_28_x86_64 _2_27_x86_64 _2_17_x86_64 2014_x86_64)
# Side by side: tests/conftest.py says how many on how many processors, in which order, and what runs alone.
JOBS ?= auto
PYTEST := $(BIN)/python -m pytest tests -n $(JOBS) --max-worker-restart 2
NBS = $(shell find nbs -name '*.ipynb' -not -path '*/[._]*' | sort)

# What the user says reaches the shell through the environment, so quotes and dollar signs in a text stay what they are.
export RUN_TEXT := $(value TEXT)
export RUN_VOICE := $(value VOICE)
export RUN_FORMAT := $(value FORMAT)
export RUN_SERVICE := $(value SERVICE)
export RUN_SEED := $(value SEED)
export RUN_OUT := $(value OUT)

.DEFAULT_GOAL := help
.PHONY: help run serve explore explore-picture check test slow soak cold-start http-measured load nano nano-gpu nano-gpu-pack \
	gpu gpu-pack docs readme outputs lint dist lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## speak through the local endpoint into OUT=out; also TEXT= VOICE= FORMAT= SERVICE= SEED=
	@$(BIN)/linacodec-tier3 run --out="$$RUN_OUT" $${RUN_TEXT:+--text="$$RUN_TEXT"} $${RUN_VOICE:+--voice="$$RUN_VOICE"} \
		$${RUN_FORMAT:+--format="$$RUN_FORMAT"} $${RUN_SERVICE:+--service="$$RUN_SERVICE"} $${RUN_SEED:+--seed="$$RUN_SEED"}

serve: $(READY) ## keep the local endpoint up at PORT=8000
	@$(BIN)/linacodec-tier3 serve --port "$(PORT)"

# On a laptop the codec is the one in the package, and nothing else is fetched; CODEC=auto: the published weights.
run serve explore: export CODEC ?= nano

explore: $(READY) ## open the explorer in JupyterLab; there: Run > Run All Cells
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs/20_explore.ipynb

# Its picture in the docs, taken anew; needs Chromium.
explore-picture: $(SLOW)
	@PICTURE=nbs/images/explorer.png $(BIN)/python -m pytest tests/test_explore.py --slow -q -p no:xdist -k picture

check: $(READY) ## in seconds: house rules, clean notebooks, a package that is what they export
	@$(BIN)/python .ci/house.py
	@PATH="$(CURDIR)/$(BIN):$$PATH" .ci/unchanged nbdev_clean
	@PATH="$(CURDIR)/$(BIN):$$PATH" .ci/unchanged nbdev_export

test: $(ENGINES) ## every notebook's tests and tests/, side by side; JOBS=1 for one after another
	@$(PYTEST)

slow: $(SLOW) ## the same, with what is flagged slow
	@$(PYTEST) --slow

soak: $(READY) ## a thousand jobs while workers die and a volume fills, ten minutes; stored for nbs/23_soak
	@SOAK_RESULT=nbs/data/soak.json $(BIN)/python -m pytest tests/test_soak.py --slow -rs -p no:xdist
	@$(BIN)/python .ci/outputs.py nbs/23_soak.ipynb

cold-start: $(READY) ## time fresh workers, ROUNDS=7 of them, beside those of a commit BEFORE=; stored for nbs/24_cold_start
	@COLD_START_RESULT=nbs/data/cold_start.json COLD_START_BEFORE="$(BEFORE)" COLD_START_ROUNDS="$(ROUNDS)" \
		$(BIN)/python -m pytest tests/test_cold_start.py -k how_long -p no:xdist
	@$(BIN)/python .ci/outputs.py nbs/24_cold_start.ipynb

http-measured: $(READY) ## first sound by HTTP and through the queue, 90 seconds; stored for nbs/26_http_measured
	@HTTP_RESULT=nbs/data/http.json $(BIN)/python -m pytest tests/test_http_measured.py -p no:xdist
	@$(BIN)/python .ci/outputs.py nbs/26_http_measured.ipynb

load: $(READY) ## 32 listeners at once by HTTP, then three times what processors can carry, seven minutes; stored for the same
	@HTTP_RESULT=nbs/data/http.json $(BIN)/python -m pytest tests/test_load.py --slow -m slow -rs -p no:xdist
	@$(BIN)/python .ci/outputs.py nbs/26_http_measured.ipynb

nano: $(SLOW) ## train the small codec from nothing into OUT=out (a night on two cores); FROM=linacodec-nano: go on from the one in the package
	@test "$(FROM)" || $(BIN)/python -m linacodec_tier3.train.recipe --out="$$RUN_OUT/nano"
	@$(BIN)/python -m linacodec_tier3.train.words --start="$(if $(FROM),$(FROM),$(OUT)/nano/codec)" --out="$$RUN_OUT/words"
	@$(BIN)/python -m linacodec_tier3.evaluate.evaluation --choose "$$RUN_OUT"/words/codec-*

nano-gpu: ## train its core on a GPU from build/nano-pack into OUT=out within NANO_LIMIT=560 seconds, FROM=linacodec-nano or a folder; needs python3 with torch, onnx and onnxruntime
	@PYTHONPATH="$(NANO_PACK)/python" python3 -m linacodec_tier3.train.packed run --pack $(NANO_PACK) --out="$$RUN_OUT/nano-gpu" \
		--start="$(if $(FROM),$(FROM),linacodec-nano)" --seconds "$(NANO_LIMIT)"

# Two hours on a core, most of them Kokoro's; it goes on where it was stopped.
nano-gpu-pack: $(TRAIN) ## voices and texts for `make nano-gpu` on a machine without network, into build/nano-pack
	@$(BIN)/python -m linacodec_tier3.train.packed pack --pack $(NANO_PACK)
	@rm -rf build/nano-wheels
	@$(WHEELS) -d build/nano-wheels soxr soundfile cffi pycparser fastcore
	@for wheel in build/nano-wheels/*.whl; do $(BIN)/python -m zipfile -e "$$wheel" $(NANO_PACK)/python; done
	@du -sh $(NANO_PACK) && test "$$(du -sm $(NANO_PACK) | cut -f1)" -le 47 || { echo "make nano-gpu-pack: over 47 MB" >&2; exit 1; }

gpu: ## measure the codec on this machine's GPU into OUT=out within LIMIT=360 seconds; needs python3 with torch and numpy
	@python3 .ci/gpu.py $(if $(wildcard $(PACK)),--pack $(PACK)) --out="$$RUN_OUT/gpu" --limit "$(LIMIT)"

# What the machine image of a GPU lacks: Python 3.12 with torch and what usually comes with it is there.
gpu-pack: $(READY) ## fetch wheels for `make gpu` on a machine without network, into build/gpu-pack
	@rm -rf $(PACK) && mkdir -p $(PACK)
	@$(WHEELS) -d $(PACK) \
		aiohttp-retry annotated-types backoff bcrypt cffi cryptography fastcore invoke paramiko pycparser pydantic pydantic_core \
		pynacl runpod soundfile soxr tomli tomlkit tqdm-loggable
	@du -sh $(PACK) && test "$$(du -sm $(PACK) | cut -f1)" -le 40 || { echo "make gpu-pack: over 40 MB" >&2; exit 1; }

docs: $(READY) ## the site, into _docs/; needs Quarto on PATH
	@command -v quarto >/dev/null || { echo "make docs: quarto is not on PATH; see https://quarto.org/docs/get-started" >&2; exit 1; }
	@# nbdev takes a half-made _proc for a finished one, and rewrites a README that looks older than its notebook.
	@rm -rf _proc && touch -c README.md
	@$(BIN)/python .ci/site.py sidebar
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_docs
	@$(BIN)/python .ci/site.py finish
	@$(BIN)/python .ci/site.py check

readme: $(READY) ## README.md from nbs/index.ipynb; needs Quarto on PATH
	@command -v quarto >/dev/null || { echo "make readme: quarto is not on PATH; see https://quarto.org/docs/get-started" >&2; exit 1; }
	@rm -rf _proc
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_readme
	@$(BIN)/python .ci/readme.py

outputs: $(READY) ## run notebooks and store what they show; NBS="nbs/01_config.ipynb …" for some
	@$(BIN)/python .ci/outputs.py $(NBS)

# The scripts in workflows go through shellcheck too, as actionlint finds it on PATH. Nothing here needs a network.
lint: $(READY) ## the Dockerfile, the workflows, the shell scripts
	@$(BIN)/hadolint Dockerfile
	@PATH="$(CURDIR)/$(BIN):$$PATH" actionlint
	@$(BIN)/zizmor --offline --strict-collection --quiet --no-progress --persona=pedantic .github
	@git grep -lIE '^#!.*\b(ba)?sh$$' -- ':!nbs' ':!tests' | xargs $(BIN)/shellcheck
	@git grep -LIE '^#!.*\b(ba)?sh$$' -- '*.sh' | xargs -r $(BIN)/shellcheck --shell=sh

dist: $(READY) ## what PyPI gets, into dist/: source distribution, and the wheel built from it
	@rm -rf dist && $(BIN)/python -m build --no-isolation >/dev/null
	@$(BIN)/twine check --strict dist/*

# Only a set-up that came to its end leaves a stamp; without one the next starts from nothing.
$(READY): requirements.lock settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: PYTHON=$(PYTHON) is no Python 3.11 or newer" >&2; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version): a few minutes the first time, torch being large"
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@rm -f $@ $(ENGINES) $(SLOW) $(TRAIN)
	@$(PIP) pip setuptools wheel
	@$(PIP) --no-build-isolation -e ".[dev]"
	@touch $@

$(ENGINES): $(READY)
	@echo "Adding every engine that shares an environment with the others"
	@$(PIP) --no-build-isolation -e ".[engines]"
	@rm -f $(BIN)/../lib/python*/site-packages/torchaudio/lib/_torchaudio.abi3.so # of another torch, and not needed
	@touch $@

$(SLOW): $(ENGINES)
	@echo "Adding what the slow checks need"
	@$(PIP) --no-build-isolation -e ".[slow,train,browser]"
	@touch $@

$(TRAIN): $(READY)
	@echo "Adding the voices to train on"
	@$(PIP) --no-build-isolation -e ".[train]"
	@touch $@

# torch: the version that there is a build of everywhere. soupsieve: newer ones refuse Debian 12, whose Python is 3.11.2.
lock: ## resolve settings.ini anew into requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q --upgrade pip setuptools wheel
	build/lock/bin/pip install -q --no-build-isolation torch==2.13.0 "soupsieve<3" -e ".[dev,engines,slow,train,browser]"
	build/lock/bin/pip check
	{ sed -n '/^#/p' requirements.lock; build/lock/bin/pip freeze --all --exclude-editable \
		| grep -Ev '^(nvidia|cuda|triton)' | sed 's/+[a-z0-9.]*$$//' | LC_ALL=C sort -f; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean: ## everything that the targets above made
	rm -rf .venv build dist out _docs _proc .pytest_cache .hypothesis *.egg-info
