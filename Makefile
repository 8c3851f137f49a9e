.PHONY: help build demo test lint bench fuzz golden clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

build: ## build bin/amieusage, one static binary
	CGO_ENABLED=0 go build -trimpath -o bin/amieusage ./cmd/amieusage

demo: build ## the main job from end to end: a service, a dump of sacct, what failed and its repair; KEEP=1 leaves the service running
	KEEP='$(KEEP)' scripts/demo.sh bin/amieusage

test: ## every test, with the race detector; installs what is missing
	scripts/tools.sh
	CGO_ENABLED=1 go test -race -timeout 20m ./...

lint: ## gofmt, vet, staticcheck, and a tidy go.mod
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff

bench: ## measure, beside baselines; writes docs/BENCHMARKS.md
	scripts/bench.sh

fuzz: ## each fuzz target for FUZZTIME (default 30s); KEEP=1 keeps what was found in testdata/fuzz
	scripts/fuzz.sh

golden: ## write the golden files anew, to be read before they are committed
	go test ./cmd/... ./internal/... -update

clean: ## remove what was built
	rm -rf bin
