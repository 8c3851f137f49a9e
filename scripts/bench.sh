#!/usr/bin/env bash
# Measures amieusage beside its baselines, all of them in one run after the other,
# and writes the tables of docs/BENCHMARKS.md. Takes about twenty minutes, and
# some 20 GB of disk; with SHORT=1, for less data and three runs, a quarter of that.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/tools.sh
results=$(mktemp)
trap 'rm -f "$results"' EXIT
measure() { # benchmarks, benchtime, and flags
  go test -run '^$' -bench "^Benchmark($1)\$" -benchtime "$2" -benchmem -timeout 60m "${@:3}" ./cmd/amieusage | tee -a "$results"
}
for _ in $(seq $([ -n "${SHORT:-}" ] && echo 3 || echo 5)); do
  measure 'Parse|ParseLogs|Encode|Decode' "${SHORT:+0.}1s"
  measure 'Replicas|EndToEnd' 1x ${SHORT:+-short}
done
measure Growth 1x ${SHORT:+-short}
if [ -z "${SHORT:-}" ]; then
  measure Many 1x
fi
go test -tags bench -count 1 -run '^TestBenchTables$' ./cmd/amieusage -bench-results "$results" -bench-doc "$PWD/docs/BENCHMARKS.md"
