# The two that matter: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MODULES := . agents lab
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
V := github.com/nopsctl/nopsctl/internal/version
LDFLAGS := -s -w -X $(V).version=$(VERSION) -X $(V).commit=$(COMMIT)
GOTEST := go test -race -shuffle=on -timeout 30m
TOOL := go tool -modfile=$(CURDIR)/go.tools.mod
# Tests and the demo never touch the cluster of whoever runs them.
unexport KUBECONFIG
# Nor does anything here ask the machine it runs on who it is.
export AWS_EC2_METADATA_DISABLED := true
export GOFLAGS := -buildvcs=false

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Build
.PHONY: build
build: ## Build bin/nopsctl and bin/lab
	@./lab/progress "building bin/nopsctl and bin/lab" bash -c '\
	  CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/nopsctl ./cmd/nopsctl && \
	  cd lab && CGO_ENABLED=0 go build -trimpath -o ../bin/lab ./cmd/lab'

.PHONY: deps
deps: build
	@bin/lab deps --install

.PHONY: images
images: build ## Build our agents' images for amd64 and arm64 and push them: make images REGISTRY=registry.example.com/prefix
	@[ -n "$(REGISTRY)" ] || { echo "name the registry: make images REGISTRY=registry.example.com/prefix" >&2; exit 2; }
	@bin/lab publish --registry "$(REGISTRY)"

##@ Demo
.PHONY: demo
demo: deps ## From clone to a monitored cluster: a real Kubernetes on this machine, the stack installed, data flowing
	@./lab/demo

.PHONY: demo-down
demo-down: ## Remove the demo: nothing stays but the cache
	@if [ -x bin/lab ]; then bin/lab down --name demo; else echo "no bin/lab here: nothing was started from this checkout"; fi

##@ Test
.PHONY: test
test: test-deps test-unit test-stories ## Everything that must pass before a change lands

.PHONY: test-deps
test-deps: deps
	@command -v gcc >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq gcc libc6-dev; } || \
	  { echo "tests run with the race detector, which needs a C compiler: apt-get install gcc libc6-dev" >&2; exit 1; }

.PHONY: test-unit
test-unit: deps ## Unit, import law, chart, contract and API-server tests of the three modules
	@bin/lab build
	@assets=$$(bin/lab assets) && export KUBEBUILDER_ASSETS=$$assets NOPSCTL_HELM3=$$assets/helm NOPSCTL_HELM4=$$assets/helm4 NOPSCTL_KUBE_SCORE=$$assets/kube-score NOPSCTL_VMAGENT=$$assets/vmagent NOPSCTL_VICTORIAMETRICS=$$assets/victoria-metrics && \
	go test -count=1 ./internal/archtest && \
	./lab/parallel $(foreach m,$(MODULES),"cd $(m) && $(GOTEST) \$$(go list ./... | grep -v -e /internal/archtest -e /lab/e2e -e '/embedded-chart$$' -e /karpenfeeder -e /karpenops/plan -e /karpenops/offering -e /platform/scenario -e /bench/karpenops)") \
	  "$(subst -race,,$(GOTEST)) ./embedded-chart ./internal/platform/scenario && cd agents && $(subst -race,-vet=off,$(GOTEST)) ./karpenfeeder/... ./karpenops/plan ./karpenops/offering && cd ../lab && $(subst -race,,$(GOTEST)) ./bench/karpenops" # hundreds of renders, and no code of ours that could race; EC2's client takes minutes and gigabytes to compile for -race; what is pure has properties to try thousands of times and months to walk through, and no goroutine

.PHONY: test-stories
test-stories: deps ## The stories: the real binaries in one shared lab
	cd lab && go test -count=1 -timeout 40m -v -skip "TestScenarios|TestLabs|TestKarpenter|TestVPA" ./e2e

.PHONY: test-scenarios
test-scenarios: deps ## The long ones
	cd lab && go test -count=1 -timeout 60m -v -run "TestScenarios|TestLabs|TestKarpenter|TestVPA" ./e2e

.PHONY: test-vpa-behaviour
test-vpa-behaviour: deps ## The VPA of Kubernetes and ours, asked the same in a lab of their own; BEHAVIOUR=-write rewrites docs/vpa-behaviour.md
	trap 'bin/lab down --name vpa-behaviour' EXIT; \
	bin/lab up --name vpa-behaviour --components all && (cd lab && NOPSCTL_LAB=vpa-behaviour go test -count=1 -timeout 40m -v ./vpasuite $(if $(BEHAVIOUR),-args $(BEHAVIOUR)))

.PHONY: test-vpa-mutations
test-vpa-mutations: ## What the tests of the nOps VPA's model would notice: 78 mistakes, each made alone; some 15 minutes
	cd agents && go test -count=1 -timeout 60m -v -run TestMutations ./vpa/clusterstate -mutate

.PHONY: bench
bench: ## What the keep-list saves, how long verification takes, what karpenops does over a month, what the nOps VPA takes beside that of Kubernetes; measured here, never in CI. BENCH=-write rewrites docs/series.md, docs/verification-speed.md, docs/karpenops-replay.md and docs/vpa-speed.md
	cd lab && go run ./bench/series $(BENCH) && go run ./bench/verify $(BENCH) && go run ./bench/karpenops $(BENCH) && go run ./bench/vpa $(BENCH)

##@ Regulations
.PHONY: generate
generate: ## Regenerate golden files, docs and the dependency lists
	go test $$(grep -rl 'flag.Bool("update"' --include=*_test.go embedded-chart internal pkg | xargs -n1 dirname | sort -u | sed 's,^,./,') -update
	cd agents && go test ./vpa/crds -update
	cd lab && go test ./cmd/lab -update

.PHONY: lint
lint: ## golangci-lint on the three modules
	for m in $(MODULES); do (cd $$m && $(TOOL) golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: verify
verify: lint generate ## Lint, regenerate, fail on a dirty tree, check the release configuration
	for m in $(MODULES); do (cd $$m && go mod tidy -diff && go mod verify >/dev/null && go vet ./...); done
	$(TOOL) goreleaser check
	@$(MAKE) --no-print-directory clean-tree

.PHONY: clean-tree
clean-tree:
	@dirty=$$(git status --porcelain) && [ -z "$$dirty" ] || { git --no-pager diff; printf '%s\n%s\n' "$$dirty" "generated files differ from what is committed, or are not committed: run make generate and commit" >&2; exit 1; }

.PHONY: release-snapshot
release-snapshot: ## Build nopsctl for every platform into dist/
	$(TOOL) goreleaser build --snapshot --clean
