# sudo make run, sudo make test: make help lists the rest.
#
# Go is found by tools/go (sudo often hides it); make GO=/path/to/go names one.

.DEFAULT_GOAL := build
SHELL := /bin/bash
.NOTPARALLEL:
.PHONY: build install uninstall man completions packages release generate run demo test race fuzz faults soak kernels bench screenshots lint fmt check clean help
.PHONY: summary fmt-check vet staticcheck arrows vuln modules manifests

go := tools/go
lint := $(go) tool -modfile=tools/lint/go.mod

# A test run must see the kernel, not the cache.
TESTFLAGS ?= -count=1 -timeout=5m
PKGS ?= ./...
FUZZTIME ?= 10s
FUZZPKGS ?= ./...
HOURS ?= 1
ENGINE ?= nfqueue

# kstatd has no C, and AllThreadsSyscall would not work with it.
export CGO_ENABLED := 0
# Go would ask git about the checkout at every build, and fail where git does not trust its owner; tools/version copes.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

# What root made in somebody's checkout is theirs, so that they can remove it.
disown := if [ "$$(id -u)" = 0 ]; then for d in bin dist; do [ ! -d $$d ] || chown -hR --reference=. $$d; done; fi

build: ## build bin/kstatd and bin/kstat
	@$(go) build -trimpath -ldflags "-X kstat/version.stamp=$$(tools/version)" -o bin/ ./cmd/...
	@$(disown)

# Where things go, by GNU's names: make install PREFIX=/usr DESTDIR=/tmp/root.
DESTDIR ?=
PREFIX ?= /usr/local
bindir ?= $(PREFIX)/bin
sbindir ?= $(PREFIX)/sbin
datadir ?= $(PREFIX)/share
mandir ?= $(datadir)/man
docdir ?= $(datadir)/doc/kstatd
unitdir ?= $(PREFIX)/lib/systemd/system
tmpfilesdir ?= $(PREFIX)/lib/tmpfiles.d
bashcompdir ?= $(datadir)/bash-completion/completions
zshcompdir ?= $(datadir)/zsh/site-functions
fishcompdir ?= $(datadir)/fish/vendor_completions.d
stage = BIN=bin SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(tools/version --epoch)} $(foreach d,bindir sbindir mandir docdir unitdir tmpfilesdir bashcompdir zshcompdir fishcompdir,$(d)='$($(d))') tools/stage

install: build ## build, and install it below PREFIX=/usr/local, with pages, completions and the service's unit
	@set -e; stage=$$(mktemp -d); trap 'rm -rf "$$stage"' EXIT; $(stage) "$$stage"; \
	(cd "$$stage" && find . -type f -printf '%m %P\n') | while read -r mode file; do install -D -m "$$mode" "$$stage/$$file" '$(DESTDIR)'/"$$file"; done; \
	[ -n '$(DESTDIR)' ] || echo 'installed below $(PREFIX); as a service: systemctl daemon-reload && systemctl enable --now kstatd'

uninstall: build ## remove what make install, with the same PREFIX, has put there
	@set -e; stage=$$(mktemp -d); trap 'rm -rf "$$stage"' EXIT; $(stage) "$$stage"; \
	(cd "$$stage" && find . -type f -printf '%P\n') | while read -r file; do rm -f '$(DESTDIR)'/"$$file"; done; \
	[ ! -d '$(DESTDIR)$(docdir)' ] || find '$(DESTDIR)$(docdir)' -depth -type d -exec rmdir --ignore-fail-on-non-empty {} +

man: build ## the manual pages, in bin/man
	@rm -rf bin/man; mkdir -p bin/man; epoch=$${SOURCE_DATE_EPOCH:-$$(tools/version --epoch)}; export SOURCE_DATE_EPOCH=$$epoch; set -e; \
	for page in $$(bin/kstat manual); do bin/kstat manual $$page > bin/man/$$page; done; \
	for page in kstatd.8 kstat.5; do bin/kstatd --manual $$page > bin/man/$$page; done
	@$(disown)

completions: build ## completions for bash, zsh and fish, in bin/completions
	@rm -rf bin/completions; mkdir -p bin/completions; set -e; \
	for shell in bash zsh fish; do bin/kstat completion $$shell > bin/completions/kstat.$$shell; bin/kstatd --completion $$shell > bin/completions/kstatd.$$shell; done
	@$(disown)

packages: ## a .deb and an .rpm for this machine, in dist/
	@tools/release packages
	@$(disown)

release: ## what a release has, for amd64 and arm64, in dist/ (refused if there are changes)
	@tools/release all
	@$(disown)

generate: ## compile hook/bpf/count.c (needs clang-16 and llvm-16; the objects are committed, so nobody else needs them)
	@PATH="$$($(go) env GOROOT)/bin:$$PATH" $(go) generate ./hook

run: build ## build, and run it on mnt/kstat until Ctrl-C (needs root; sudo make run)
	@echo 'kstatd on mnt/kstat; Ctrl-C ends it. What to type next, in another terminal:'
	@echo
	@echo '    sudo -s'
	@printf '    cd %q\n' "$$PWD"
	@echo '    cat mnt/kstat/nout'
	@echo '    echo 1 > mnt/kstat/start'
	@echo '    curl -s http://127.0.0.1:1'
	@echo '    echo 1 > mnt/kstat/counter'
	@echo '    cat mnt/kstat/protocols'
	@echo '    echo 0 > mnt/kstat/start'
	@echo
	@exec bin/kstatd --mount mnt/kstat

demo: build ## show it in a network namespace of its own, figures checked (ENGINE=bpf in the kernel)
	@$(go) run ./lab/demo -kstatd bin/kstatd -engine $(ENGINE)

test: summary ## run every test on the real kernel, each skip named (sudo make test runs more)
	@bin/summary $(go) test -json $(TESTFLAGS) $(PKGS)

# A program with the race detector sleeps for a second before it ends, unless it is told not to; tests start thousands.
race: export GORACE := atexit_sleep_ms=10
race: export CGO_ENABLED := 1
race: summary ## run every test under the race detector, stats, hook and fs also on one P (needs gcc)
	@command -v $${CC:-gcc} >/dev/null || { echo 'race: the race detector needs a C compiler: apt-get install gcc libc6-dev' >&2; exit 1; }
	@bin/summary $(go) test -json -race -short $(TESTFLAGS) $(PKGS)
	@GOMAXPROCS=1 bin/summary $(go) test -json -race -short $(TESTFLAGS) ./stats/... ./hook/... ./fs/...

fuzz: ## run every fuzz target for FUZZTIME=10s
	@tools/fuzz $(FUZZTIME) $(FUZZPKGS)

# Faults mostly wait: the daemon's with either engine, and those of the rest, run side by side, each in namespaces of its own.
fault = KSTAT_FAULTS=full KSTAT_REQUIRE=1 $(go) test -count=1 -timeout=20m -v
faults: ## the fault suite at full length, each figure shown, in about eight minutes (needs root, strace, nftables, iptables)
	@shown() { grep --line-buffered -vE '^(=== |ok |PASS)' || true; }; set -o pipefail; \
	( $(fault) -run 'Fault/^nfqueue$$' ./cmd/kstatd | shown ) & one=$$!; \
	( $(fault) -run 'Fault/^bpf$$' ./cmd/kstatd | shown ) & two=$$!; \
	$(fault) -run Fault ./stats ./fs ./hook ./lab/grade ./cmd/kstat | shown; three=$$?; \
	wait $$one; one=$$?; wait $$two && [ $$one = 0 ] && [ $$three = 0 ]

soak: build ## run under load for HOURS=1 and look whether anything grows (needs root)
	@$(go) run ./lab/soak -kstatd bin/kstatd -hours $(HOURS)

kernels: summary ## the tests on other kernels, KERNELS="6.1-amd64 6.12-arm64" or all, in virtual machines (needs qemu; hours where it emulates)
	@$(go) build -o bin/kernels ./lab/kernels
	@$(disown)
	@bin/kernels $(if $(PACKAGES),-packages '$(PACKAGES)') $(KERNELS)

bench: build ## measure kstatd beside its peers, ten minutes, into bench/report.md (needs root; gcc for the peers in C)
	@$(go) run ./bench -kstatd bin/kstatd -o bench/report.md
	@if [ "$$(id -u)" = 0 ]; then chown --reference=. bench/report.md bench/*.svg; fi

screenshots: build ## take the pictures in docs/images, of real traffic, in eleven minutes (needs chromium, tmux and prometheus)
	@$(go) run ./lab/screenshots -kstatd bin/kstatd -o docs/images
	@$(go) run ./lab/screenshots/top -bin bin -o docs/images
	@$(go) run ./lab/screenshots/dashboard -kstatd bin/kstatd -o docs/images
	@if [ "$$(id -u)" = 0 ]; then chown --reference=. docs/images/*; fi

lint: fmt-check vet staticcheck arrows vuln modules manifests ## gofmt, vet, staticcheck, import arrows, govulncheck, modules tidy and verified, manifests

vet:
	$(go) vet ./...

staticcheck:
	$(lint) staticcheck ./...

arrows:
	tools/arrows

vuln:
	tools/vuln

modules:
	$(go) mod tidy -diff
	$(go) mod verify

# By Kubernetes's own types; a module of its own, as they are large.
manifests:
	$(go) run -C tools/kubernetes . '$(CURDIR)'/deploy/kubernetes/*.yaml

# Not gofmt -l . : mnt/kstat may be mounted, or dead.
gofiles = $$(find . \( -path ./.git -o -path ./mnt -o -path ./bin -o -path ./dist \) -prune -o -name '*.go' -print)

fmt: ## format the source
	@PATH="$$($(go) env GOROOT)/bin:$$PATH"; gofmt -s -w $(gofiles)

fmt-check:
	@PATH="$$($(go) env GOROOT)/bin:$$PATH"; bad=$$(gofmt -s -l $(gofiles)) || exit 1; \
	[ -z "$$bad" ] || { echo 'not formatted (make fmt):' $$bad >&2; exit 1; }

check: fmt-check lint test ## fmt-check, lint and test: before a commit

clean: ## remove what was built
	@rm -rf bin dist 2>/dev/null || { echo 'clean: bin/ belongs to somebody else (a build under sudo?): sudo make clean' >&2; exit 1; }
	@find . \( -path ./.git -o -path ./mnt \) -prune -o \( -name '*.test' -o -name '*.prof' \) -type f -exec rm -f {} +

help: ## list these targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-18s  %s\n", $$1, $$2 }'

summary:
	@CGO_ENABLED=0 $(go) build -o bin/summary ./tools/summary
	@$(disown)
