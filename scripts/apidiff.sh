#!/usr/bin/env bash
# Compares the public packages with those of the release in api/go, and fails where
# a program that was built with it would not be built any more. With "write", it
# records them as a release's.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=golang.org/x/exp/cmd/apidiff@v0.0.0-20261113113407-e3970619a1a4
broken=0
for package in . ./usageclient ./usageclient/usagetest; do
  path=$(go list "$package")
  recorded=api/go/$(basename "$path").export
  if [ "${1:-}" = write ]; then
    go run "$tool" -w "$recorded" "$path"
    continue
  fi
  changes=$(go run "$tool" -incompatible "$recorded" "$path")
  if [ -n "$changes" ]; then
    printf '%s differs from the last release:\n%s\n' "$path" "$changes" >&2
    broken=1
  fi
done
if [ "$broken" = 1 ]; then
  echo "keep what was released; where that cannot be, a new release says so in CHANGELOG.md and records it: scripts/apidiff.sh write" >&2
  exit 1
fi
