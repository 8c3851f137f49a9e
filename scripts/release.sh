#!/usr/bin/env bash
# Builds a release in dist: for each platform an archive of the program, its man
# pages, completions and documents; the list of what it is made of (CycloneDX); and
# checksums. It is built from the commit, twice, in different folders and without
# what was built before: both must come out the same to the byte.
set -euo pipefail
cd "$(dirname "$0")/.."
platforms=${PLATFORMS:-linux/amd64 linux/arm64}
sbom=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
if [ -n "$(git status --porcelain)" ]; then
  echo "release: there are changes that are not committed: a release is built from a commit" >&2
  exit 2
fi
version=$(sed -n 's/^## \([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

# build FOLDER OUT CACHE builds all archives from a clone.
build() {
  local folder=$1 out=$2 cache=$3 platform name
  git clone --quiet --no-hardlinks . "$folder"
  mkdir -p "$out"
  for platform in $platforms; do
    name=amieusage_${version}_${platform/\//_}
    mkdir -p "$folder/stage/$name"
    (
      cd "$folder"
      GOCACHE=$cache GOFLAGS= CGO_ENABLED=0 GOOS=${platform%/*} GOARCH=${platform#*/} \
        go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.release=$version" -o "stage/$name/amieusage" ./cmd/amieusage
      if [ ! -e stage/host ]; then
        GOCACHE=$cache GOFLAGS= CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-X main.release=$version" -o stage/host ./cmd/amieusage
      fi
      mkdir -p "stage/$name/man" "stage/$name/completion"
      stage/host man "stage/$name/man"
      for shell in bash zsh fish; do
        stage/host completion "$shell" > "stage/$name/completion/amieusage.$shell"
      done
      cp -r README.md CHANGELOG.md LICENSE docs contrib "stage/$name/"
      tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        -C stage -cf - "$name" | gzip -n -9 > "$out/$name.tar.gz"
      GOFLAGS= go run "$sbom" bin -json -noserial -notimestamp -version "v$version" -output "$out/$name.cdx.json" "stage/$name/amieusage" 2>&1 |
        { grep -v INF || true; } >&2
    )
  done
}

echo "building $version for $platforms"
build "$work/one" "$work/dist" "$work/cache-one"
echo "building it again, elsewhere"
build "$work/another/place" "$work/again" "$work/cache-another"
(cd "$work/dist" && sha256sum -- * > SHA256SUMS)
(cd "$work/again" && sha256sum --quiet --check "$work/dist/SHA256SUMS")
rm -rf dist
mv "$work/dist" dist
(cd dist && ls -l && sha256sum --quiet --check SHA256SUMS)
echo "the same both times; in dist"
