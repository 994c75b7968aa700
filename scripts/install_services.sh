#!/usr/bin/env bash
# Make sure that the servers which the tests start are on this machine. Starts nothing, asks nothing.
set -euo pipefail

say() { printf '[services] %s\n' "$*"; }

has_postgresql() {
    command -v initdb >/dev/null && command -v postgres >/dev/null && return 0
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

# Debian's package makes and starts a cluster of its own unless it is told not to; the tests use
# servers of theirs and leave no process behind.
install_postgresql() {
    setting=/etc/postgresql-common/createcluster.d/airflow-ensemble-tests.conf
    trap 'rm -f "$setting"' EXIT
    mkdir -p "${setting%/*}"
    echo 'create_main_cluster = false' >"$setting"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update </dev/null
    apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends postgresql \
        </dev/null >/dev/null
}

if has_postgresql; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "the tests need a PostgreSQL server (initdb and postgres), and this machine has none." >&2
    say "Install one, on Debian and Ubuntu with 'sudo apt-get install postgresql', and run again." >&2
    exit 1
fi
say "installing PostgreSQL, which the tests need"
install_postgresql
has_postgresql || { say "apt-get brought no PostgreSQL server: see above" >&2; exit 1; }
