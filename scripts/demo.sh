#!/usr/bin/env bash
# The main job from end to end on one machine: a service on SQLite, dumps of
# sacct that hold what real ones do, what failed, its repair, and the totals.
# All of it in a folder that goes away, unless KEEP is 1. It needs no more than
# bash and coreutils, and fails where a status or a total is not the expected.
set -euo pipefail
unset AMIEUSAGE_API_KEY
amieusage=$(realpath "$1")
keep=${KEEP:-0}
work=$(mktemp -d)
server=
kept=

finish() {
  local status=$?
  [ -z "$kept" ] || exit "$status"
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
  [ "$status" -eq 0 ] || echo "the demo failed" >&2
  exit "$status"
}
trap finish EXIT

say() { printf '\n# %s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# expect STATUS ARGUMENTS... runs the program, which must end with STATUS.
expect() {
  local want=$1 got=0
  shift
  printf '$ amieusage %s\n' "$*"
  "$amieusage" "$@" || got=$?
  [ "$got" -eq "$want" ] || fail "amieusage $* ended with $got, and not with $want"
}

# same WHAT GOT WANT
same() { [ "$2" = "$3" ] || fail "$1:"$'\n'"$2"$'\n'"and not:"$'\n'"$3"; }

cp testdata/demo/*.psv testdata/slurm/sacct-22.05.json "$work"
cd "$work"

cat > registry.yaml <<'YAML'
sites:
  - name: PSC
    resources:
      - {name: bridges2-rm.psc.access-ci.org}
      - {name: bridges2-gpu.psc.access-ci.org}
      - {name: bridges2-em.psc.access-ci.org}
    projects:
      - id: p.abc123456.000
        users: [alice]
        allocations:
          - {resource: bridges2-rm.psc.access-ci.org, amount: 100000, start: 2021-01-01, end: 2026-12-31}
          - {resource: bridges2-gpu.psc.access-ci.org, amount: 5000, start: 2021-01-01, end: 2026-12-31}
      - id: p.chm220016.000
        users: [erin]
        allocations:
          - {resource: bridges2-rm.psc.access-ci.org, amount: 500, start: 2021-01-01, end: 2026-12-31}
          - {resource: bridges2-gpu.psc.access-ci.org, amount: 50, start: 2021-01-01, end: 2026-12-31}
          - {resource: bridges2-em.psc.access-ci.org, amount: 1000, start: 2021-01-01, end: 2026-12-31}
      - id: TG-PHY090012
        users: [carol]
        allocations:
          - {resource: bridges2-rm.psc.access-ci.org, amount: 1000, start: 2021-01-01, end: 2026-12-31}
YAML
cat > site.yaml <<'YAML'
site: PSC
api_key_file: psc.key
state: outbox.db
slurm: {time_zone: America/New_York, lookback: 72h, clusters: [demo, testc]}
resources:
  - {resource: bridges2-gpu.psc.access-ci.org, partitions: ["GPU*", "gpu*"], charge: {per_hour: {gres/gpu: 1}, decimals: 6}}
  - {resource: bridges2-em.psc.access-ci.org, partitions: [EM], charge: {per_hour: {mem: 0.25}}}
  - {resource: bridges2-rm.psc.access-ci.org, partitions: [cpu, debug], charge: {per_hour: {cpu: 1}}}
projects: {include: ["p.*", "tg-*"], case: keep, map: {tg-phy090012: TG-PHY090012}}
YAML

say "The operator states the site's registry and makes it a key."
expect 0 admin import registry.yaml --db ledger.db
(umask 077; "$amieusage" admin key create --site PSC --db ledger.db > psc.key)

say "The service: one program, one file."
: > serve.log
nohup "$amieusage" serve --db ledger.db --listen 127.0.0.1:0 < /dev/null >> serve.log 2>&1 &
server=$!
for ((tries = 300; ; tries--)); do
  if [[ $(< serve.log) =~ url=([^[:space:]]+) ]]; then break; fi
  kill -0 "$server" 2>/dev/null && [ "$tries" -gt 0 ] || { cat serve.log >&2; fail "the service did not start"; }
  sleep 0.1
done
url=${BASH_REMATCH[1]}
cat serve.log
echo "usage_url: $url" >> site.yaml

say "The site's administrator reports three dumps: times since the epoch, a few of the same jobs in local times, and JSON.
# The exit status is 1: one time happened twice that night, and bob is not known on his project."
expect 1 report --config site.yaml --from-file sacct.psv --from-file sacct-newyork-naive.psv --from-file sacct-22.05.json

say "What the service says, and the records that failed."
expect 0 status --config site.yaml
expect 0 failed list --config site.yaml

say "The operator adds bob; the administrator retries."
cat > more.yaml <<'YAML'
sites:
  - name: PSC
    projects:
      - id: p.chm220016.000
        users: [erin, bob]
YAML
expect 0 admin import more.yaml --db ledger.db
expect 0 failed retry --config site.yaml --all

say "The row whose time was in doubt, exported again with SLURM_TIME_FORMAT=%s."
expect 0 report --config site.yaml --from-file sacct-repeated-hour.psv

say "Reporting the first dump again changes nothing."
expect 0 report --config site.yaml --from-file sacct.psv

say "All is loaded."
expect 0 status --config site.yaml
open=$("$amieusage" records list --config site.yaml --state pending,queued,failed,rejected -o json)
same "entries of the outbox that are not loaded" "$open" "[]"
same "failed records" "$("$amieusage" failed list --config site.yaml -o json)" "[]"

say "Where the projects stand."
expect 0 summary --config site.yaml --by project

say "The ledger adds up."
expect 0 admin verify --db ledger.db

# The totals as counted apart from the program: records and charge.
totals=$("$amieusage" summary --config site.yaml --by resource --csv | cut -d , -f 1,7,10)
same "totals" "$totals" "Resource,RecordCount,Charge
bridges2-em.psc.access-ci.org,4,191.668132
bridges2-gpu.psc.access-ci.org,8,3.79861
bridges2-rm.psc.access-ci.org,48,27.443333"
say "60 records are loaded, each once, and the totals are those expected."

say "A rule was wrong: a GiB-hour on EM costs 0.2, and not 0.25. What was charged stays until that is sent on purpose."
sed -i 's/per_hour: {mem: 0.25}/per_hour: {mem: 0.2}/' site.yaml
expect 0 report --config site.yaml --from-file sacct.psv
expect 0 report --config site.yaml --from-file sacct.psv --reprice --yes

say "From December on an hour on RM costs 1.5: jobs that started before keep their rate."
sed -i 's/charge: {per_hour: {cpu: 1}}/charge: [{per_hour: {cpu: 1}}, {from: 2026-12-01, per_hour: {cpu: 1.5}}]/' site.yaml
expect 0 report --config site.yaml --from-file sacct.psv

say "Job 1074 had a node that failed: half of its charge is given back. How it stands now:"
expect 0 refund --config site.yaml 1074 --percent 50 --comment "node n2 failed"
expect 0 explain --config site.yaml 1074
expect 0 admin verify --db ledger.db
totals=$("$amieusage" summary --config site.yaml --by resource --csv | cut -d , -f 1,7,10)
same "totals" "$totals" "Resource,RecordCount,Charge
bridges2-em.psc.access-ci.org,4,153.334505
bridges2-gpu.psc.access-ci.org,9,3.59861
bridges2-rm.psc.access-ci.org,48,27.443333"

if [ "$keep" = 1 ]; then
  kept=1
  cat <<TEXT

# The service is still running at $url. To try next:
cd $work
$amieusage loaded --config site.yaml
$amieusage summary --config site.yaml --by project,user
$amieusage convert --config site.yaml sacct.psv
$amieusage records list --config site.yaml
# and to end it:
kill $server && sleep 1
rm -rf $work
TEXT
  exit
fi

kill "$server"
wait "$server" || fail "the service did not end with 0"
server=
cat <<TEXT

# To try next:
make demo KEEP=1    # the same, and leaves the service running to be tried
bin/amieusage --help
bin/amieusage report --help
bin/amieusage serve --help
TEXT
