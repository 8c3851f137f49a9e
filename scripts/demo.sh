#!/usr/bin/env bash
# The main job from end to end on one machine, in a folder that goes away: a
# service on SQLite, a dump of sacct, what failed, its repair, and the totals.
set -euo pipefail
amieusage=$(realpath "$1")
dump=$(realpath testdata/slurm/sacct-epoch.psv)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; [ -z "$server" ] || wait "$server" || true; rm -rf "$work"' EXIT
cd "$work"

say() { printf '\n# %s\n' "$*"; }
run() { printf '$ amieusage %s\n' "$*"; "$amieusage" "$@"; }

cat > registry.yaml <<'YAML'
sites:
  - name: PSC
    resources:
      - {name: bridges2-rm.psc.access-ci.org}
      - {name: bridges2-gpu.psc.access-ci.org}
    projects:
      - id: p.abc123456.000
        users: [alice]
        allocations:
          - {resource: bridges2-rm.psc.access-ci.org, amount: 100000, start: 2026-01-01, end: 2026-12-31}
          - {resource: bridges2-gpu.psc.access-ci.org, amount: 5000, start: 2026-01-01, end: 2026-12-31}
      - id: TG-PHY090012
        users: [carol]
        allocations:
          - {resource: bridges2-rm.psc.access-ci.org, amount: 1000, start: 2026-01-01, end: 2026-12-31}
YAML
cat > site.yaml <<'YAML'
site: PSC
api_key_file: psc.key
state: outbox.db
slurm: {time_zone: America/New_York, lookback: 72h}
resources:
  - {resource: bridges2-gpu.psc.access-ci.org, partitions: ["gpu*"], charge: {per_hour: {gres/gpu: 1}, decimals: 6}}
  - {resource: bridges2-rm.psc.access-ci.org, partitions: ["*"], charge: {per_hour: {cpu: 1}}}
projects: {include: ["p.*", "tg-*"], case: keep, map: {tg-phy090012: TG-PHY090012}}
YAML

say "The operator states the site's registry and makes it a key."
run admin import registry.yaml --db ledger.db
(umask 077; run admin key create --site PSC --db ledger.db | tail -n 1 > psc.key)

say "The service: one program, one file."
"$amieusage" serve --db ledger.db --listen 127.0.0.1:0 2> serve.log &
server=$!
until url=$(grep -o 'url=[^ ]*' serve.log); do
  kill -0 "$server" 2>/dev/null || { cat serve.log; exit 1; }
  sleep 0.1
done
cat serve.log
echo "usage_url: ${url#url=}" >> site.yaml

say "The site's administrator reports a dump of sacct. Bob's project is not known to the service yet: exit status 1."
run report --config site.yaml --from-file "$dump" || [ $? -eq 1 ]

say "What failed, and why."
run status --config site.yaml

say "The operator adds the project; the administrator retries."
cat > more.yaml <<'YAML'
sites:
  - name: PSC
    projects:
      - id: p.chm220016.000
        users: [bob]
        allocations: [{resource: bridges2-rm.psc.access-ci.org, amount: 500, start: 2026-01-01, end: 2026-12-31}]
YAML
run admin import more.yaml --db ledger.db
run failed retry --config site.yaml --all

say "Reporting the same dump again changes nothing."
run report --config site.yaml --from-file "$dump"

say "Where the projects stand."
run summary --config site.yaml --by project

say "The ledger adds up."
run admin check --db ledger.db
