# What one can do here; `make` lists it. The work is in hack/. Everything built or downloaded goes to $COMPOZY_CACHE,
# ~/.cache/compozy-operator by default.

.DEFAULT_GOAL := help
.NOTPARALLEL:
COMPOZY_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/compozy-operator
export COMPOZY_CACHE
export CARGO_TARGET_DIR ?= $(COMPOZY_CACHE)/target

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo demo-down
demo: ## From nothing to a workflow that ran on a real Kubernetes: half an hour the first time, then under a minute. CONTEXT=… IMAGE=… NATS_IMAGE=…: on a cluster that you have
	@hack/demo
demo-down: cluster-down ## Remove what the demo started

# A program of its own, optimised: see Cargo.toml.
SIMULATION = cargo test --locked --config profile.dev.opt-level=1 --test simulation --
# One place, some worlds, or all that belongs to `make test`.
SIMULATED = $(if $(PLACE),goes_wrong,$(if $(SEED)$(SEEDS)$(FROM),every_world,every_world core_cases))

.PHONY: test unit sim sim-bugs e2e lint
test: unit sim e2e ## Every test that must pass
unit: ## Tests without root or a cluster
	@hack/tools/build nats-server etcd kubernetes
	cargo test --locked
	$(SIMULATION) --skip every_world --skip core_cases
sim: ## The whole operator in simulated worlds; SEEDS=100000 FROM=1 says how many, SEED=7 shows one; PLACE="one-task CrashBefore 3" plays one place
	SEEDS=$(or $(SEEDS),1000) STRIDE=$(or $(STRIDE),20) $(SIMULATION) --nocapture --test-threads=1 $(SIMULATED)
sim-bugs: ## Mistakes planted in the operator, one after the other: the simulation finds each; BUG=wake-up-lost plants one
	@hack/sim-bugs $(BUG)
e2e: ## Tests on the real cluster; PYTEST="-k hello" passes arguments
	@hack/e2e $(PYTEST)
lint: ## Every static check
	@hack/lint

.PHONY: bench-basics bench-items bench-pools bench-survive
bench-basics: ## Print API writes, step gap, start, memory and image size beside their targets
	@hack/bench-basics
bench-items: ## Print what a forEach of 10,000 items costs beside one of 1,000; ITEMS says how many
	@hack/bench-items
bench-pools: ## Print what a step on a warm pool costs beside the targets; TASKS says how many no-ops
	@hack/bench-pools
bench-survive: ## Kill, replace, fill and cut off the operator, and print what that does beside the targets
	@hack/bench-survive

.PHONY: cluster-up cluster-down kubeconfig
cluster-up: ## Start Kubernetes on this machine, or what of it does not run
	@hack/cluster/up
cluster-down: ## Stop it and remove its state
	@hack/cluster/down
kubeconfig: ## Print the path of its kubeconfig: export KUBECONFIG=$(make -s kubeconfig)
	@echo $(COMPOZY_CACHE)/cluster/admin.conf

.PHONY: images install crds
images: cluster-up ## Build the images and import them into the cluster
	@hack/images
install: images ## Install or upgrade operator and NATS with helm
	@hack/install
crds: ## Generate definitions, API reference and event schemas from the Rust types
	@hack/crds
