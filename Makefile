# Two commands: `make demo` and `make test`. Both install what they need (apt, a venv) on Debian 12
# or 13, as root. `make venv` and `make unit` need neither root nor a VM.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -q
KEY := build/keys/image.key
PLAN_KEY := build/keys/plan/plan.key
# Debian 13 has split the storage driver from the daemon.
LIBVIRT := libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt \
  $(shell grep -q '^VERSION_ID="12"' /etc/os-release || echo libvirt-daemon-driver-storage)

.DEFAULT_GOAL := help
.PHONY: help demo test venv lint unit adapters machine families foreman boot bench bench-vm load deps image page live sample clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: live sample  ## Install a virtual machine, boot it, show the proof
	$(BIN)/python -m qemu demo

test: venv deps lint unit adapters machine  ## Everything, as CI runs it

venv: $(VENV)/stamp  ## .venv with bedplate, its tests and linters
$(VENV)/stamp: pyproject.toml
	@test -x $(PYTHON) && $(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install -y python3 python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[redfish,server,dev]'
	@touch $@

lint: venv  ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy agent qemu tests

unit: venv  ## Pure core, steps and engine; no root, under a minute
	$(PYTEST) -n auto tests/unit

# They wait more than they work: for timeouts that are tested, for keys, for programs to start.
adapters: venv deps  ## Real programs on loopback and sparse files
	$(PYTEST) -n 4 --dist loadfile tests/adapters

page: venv  ## The fleet page in headless Chromium; writes build/page.json; not part of test
	qemu/install-deps chromium
	$(PYTEST) tests/page

machine: venv deps live sample  ## Real machines in QEMU
	$(PYTEST) tests/machine

# ONLY=trixie-grub takes the machine of one family, ONLY=update what needs no machine.
families: venv deps live  ## Real machines of other families of targets; not part of test
	for suite in bookworm trixie testing; do for family in packages grub; do \
	  image/build sample --family $$family --suite $$suite || exit 1; done; done
	$(PYTEST) tests/families --durations=20 $(if $(ONLY),-k '$(ONLY)')

boot: venv deps keys sample  ## Every way to boot the live image; not part of test
	qemu/install-deps $(LIBVIRT)
	$(PYTEST) tests/boot

foreman: venv deps live sample  ## Machines deployed by a stand-in Foreman; not part of test
	$(PYTEST) tests/foreman

bench: venv deps  ## Measure the image pipeline beside its peers; writes build/bench.json
	$(BIN)/python -m tests.bench

bench-vm: venv deps live sample  ## Measure it in a virtual machine; writes build/bench-vm.json
	$(BIN)/python -m qemu bench

load: venv  ## A thousand simulated agents against one server; writes build/load.json
	$(BIN)/python -m tests.load

deps:  ## apt packages for the rig and the tests
	qemu/install-deps

image: keys  ## The live image for real servers, ISO and stick too: build/live/full
	image/build forms --variant full

live: keys deps  ## The live image for virtual machines: build/live/rig
	image/build live --variant rig

sample: venv  ## The sample OS image: build/sample
	image/build sample

.PHONY: keys
keys: venv $(KEY) $(PLAN_KEY)
$(KEY):
	$(BIN)/bedplate keygen image -d build/keys
$(PLAN_KEY):
	$(BIN)/bedplate keygen plan -d build/keys/plan

clean:  ## Remove everything that was built
	rm -rf build $(VENV)
