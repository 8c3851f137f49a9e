.PHONY: help build demo test crash lint bench fuzz soak golden release clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

build: ## build bin/amieusage, one static binary
	CGO_ENABLED=0 go build -trimpath -o bin/amieusage ./cmd/amieusage

demo: build ## the main job from end to end: a service, a dump of sacct, what failed and its repair; KEEP=1 leaves the service running
	KEEP='$(KEEP)' scripts/demo.sh bin/amieusage

test: ## every test, with the race detector; installs what is missing
	scripts/tools.sh
	# SQLite, which is C made Go, keeps its memory where the detector does not look: unchecked it is many times as fast.
	CGO_ENABLED=1 go test -race -gcflags=modernc.org/sqlite/lib=-race=false -parallel 4 -timeout 28m ./...
	go test -run '^TestAllocations$$' ./cmd/amieusage # which the race detector would add to

crash: ## kill 300 processes on each engine, fill disks, step clocks: nothing lost, nothing doubled; CRASH_SEED=N replays
	go test -tags failpoint ./internal/failpoint
	go test -v -count=1 -timeout 3h -run '^(TestCrash|TestFault)' ./cmd/amieusage -kills 300 -stopped 60s -crash-seed $(or $(CRASH_SEED),0)

lint: ## gofmt, vet, staticcheck, a tidy go.mod, and public packages that keep what was released
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff
	scripts/apidiff.sh

bench: ## measure, beside baselines; writes docs/BENCHMARKS.md
	scripts/bench.sh

fuzz: ## each fuzz target for FUZZTIME (default 30s); KEEP=1 keeps what was found in testdata/fuzz
	scripts/fuzz.sh

soak: ## service and agent for SOAK (default 1h) at 2,000 records a second, with restarts; writes docs/SOAK.md and its plots
	scripts/tools.sh
	go test -run '^TestSoak$$' -v -count 1 -timeout 0 ./cmd/amieusage -soak '$(or $(SOAK),1h)' -soak-docs '$(CURDIR)/docs'

golden: ## write the golden files anew, to be read before they are committed
	go test ./cmd/... ./internal/... -update

release: ## build dist: archives, SBOM, checksums; twice, and both must be the same to the byte
	scripts/release.sh

clean: ## remove what was built
	rm -rf bin dist
