#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: a C compiler for the
# race detector, Python for the reference client's test, and the programs of
# PostgreSQL, pgbouncer and Grid Engine, which the tests start themselves, and of
# Prometheus, which look at the metrics. Idempotent.
set -euo pipefail
export PATH=$PATH:/usr/sbin
missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v python3 >/dev/null || missing+=(python3)
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
command -v pgbouncer >/dev/null || missing+=(pgbouncer)
command -v promtool >/dev/null || missing+=(prometheus)
{ command -v sge_qmaster && command -v sge_execd && command -v qsub; } >/dev/null || missing+=(gridengine-master gridengine-exec gridengine-client)
if [ ${#missing[@]} -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
  conf=/etc/postgresql-common/createcluster.conf
  if [[ " ${missing[*]} " == *' postgresql '* && ! -e $conf ]]; then # no server of the machine's own
    mkdir -p ${conf%/*}
    echo 'create_main_cluster = false' >$conf
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
  if [ -d /run/systemd/system ]; then # no service of the machine's own
    for unit in pgbouncer prometheus gridengine-master gridengine-exec; do
      if [[ " ${missing[*]} " == *" $unit "* ]]; then
        systemctl disable --now "$unit" || true
      fi
    done
  fi
fi
