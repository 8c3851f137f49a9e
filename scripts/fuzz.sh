#!/usr/bin/env bash
# Runs each fuzz target of the module for FUZZTIME (default 30s), one after the
# other; a failure stops only its own target, and makes the status 1 in the end.
#
#   FUZZTIME=5m make fuzz              for five minutes each
#   TARGETS='slurm|Charge' make fuzz   those whose package and name match only
#   KEEP=1 make fuzz                   copy what was found into testdata/fuzz,
#                                      which go test replays: see keep below
#   PARALLEL=1 make fuzz               workers for a target (default: every core)
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=${FUZZTIME:-30s}
parallel=${PARALLEL:-$(nproc)}
# The targets write and sync files: in memory, where there is such a folder.
if [ -d /dev/shm ]; then
  export GOTMPDIR=${GOTMPDIR:-${TMPDIR:-/tmp}} TMPDIR=/dev/shm
fi
kept_files=40   # of a target, at most
kept_bytes=4096 # of a file, at most

# targets prints the package and the folder of each target, and its name.
targets() {
  go list -f '{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}
{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}
{{end}}' ./... | while read -r package folder file; do
    [ -z "$file" ] || sed -nE "s|^func (Fuzz[A-Za-z0-9_]*)\(.*|$package $folder \1|p" "$folder/$file"
  done | awk -v wanted="${TARGETS:-.}" '($1 " " $3) ~ wanted' | sort
}

# seconds prints a number of seconds, or nothing for what is no plain time.
seconds() {
  case $1 in
    *[!0-9]*[!0-9]* | [!0-9]*) ;;
    *s) echo "${1%s}" ;;
    *m) echo $((${1%m} * 60)) ;;
    *h) echo $((${1%h} * 3600)) ;;
  esac
}

# shape prints the kinds of the values in a file of inputs.
shape() { sed 's/(.*//' "$1" | tr '\n' ' '; }

# keep copies inputs that reached something new into testdata/fuzz, evenly taken
# from the order in which they were found. What is there already stays; what was
# found for other parameters of the target is left out.
keep() {
  local found kept newest file
  found="$(go env GOCACHE)/fuzz/$1/$3"
  kept="$2/testdata/fuzz/$3"
  newest=$(find "$found" -type f -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d ' ' -f 2-)
  [ -n "$newest" ] || return 0
  mkdir -p "$kept"
  local room=$((kept_files - $(find "$kept" -type f | wc -l)))
  find "$found" -type f -size "-${kept_bytes}c" -printf '%T@ %p\n' | sort -n | cut -d ' ' -f 2- |
    while read -r file; do if [ "$(shape "$file")" = "$(shape "$newest")" ]; then echo "$file"; fi; done |
    awk -v room="$room" '{ line[NR] = $0 }
      END { for (i = 1; i <= NR; i++) if (NR <= room || int(i * room / NR) > int((i - 1) * room / NR)) print line[i] }' |
    while read -r file; do cp -n "$file" "$kept/"; done
}

list=$(targets)
count=$(wc -l <<<"$list")
each=$(seconds "$fuzztime")
echo "$count targets × $fuzztime${each:+ = $((count * each / 60)) min $((count * each % 60)) s}, beside building"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
while read -r package folder target; do
  printf '%-22s %-44s ' "$target" "${package#*/*/}"
  status=0
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -fuzzminimizetime 1s -parallel "$parallel" \
    "$package" >"$log" 2>&1 </dev/null || status=$?
  sed -nE 's/^fuzz: elapsed: .*, execs: ([0-9]+) .*, new interesting: ([0-9]+) \(total: ([0-9]+)\)$/\1 executions, \2 new inputs, \3 in all/p' "$log" |
    tail -n 1 | tr -d '\n'
  if [ "$status" -ne 0 ]; then
    echo ' FAILED'
    cat "$log"
    input=$(sed -nE 's/^ *Failing input written to (.*)$/\1/p' "$log" | tail -n 1)
    failed+=("$package $target${input:+: the input is in $folder/$input}")
  else
    echo
  fi
  [ -z "${KEEP:-}" ] || keep "$package" "$folder" "$target"
done <<<"$list"

if [ "${#failed[@]}" -gt 0 ]; then
  echo "${#failed[@]} of $count targets failed:"
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
