#!/usr/bin/env bash
# Make sure that the servers which the tests start are on this machine. Starts nothing, asks nothing.
set -euo pipefail

# Servers live in /usr/sbin, which is not on everybody's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
ACCOUNT=ensemble-hpc
SLURM_PROGRAMS=(sbatch squeue sacct slurmctld slurmd slurmdbd munged sshd mariadbd mariadb-install-db tcsh)
SLURM_PACKAGES=(slurm-wlm slurmdbd munge openssh-server mariadb-server libfaketime tcsh)

say() { printf '[services] %s\n' "$*"; }

has_postgresql() {
    command -v initdb >/dev/null && command -v postgres >/dev/null && return 0
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

has_slurm() {
    for program in "${SLURM_PROGRAMS[@]}"; do
        command -v "$program" >/dev/null || return 1
    done
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null
}

# Debian's packages start what they install, and PostgreSQL's makes a cluster of its own, unless they
# are told not to; the tests use servers of theirs and leave no process behind.
install_packages() {
    setting=/etc/postgresql-common/createcluster.d/airflow-ensemble-tests.conf
    policy=/usr/sbin/policy-rc.d
    undo="rm -f $setting"
    trap 'eval "$undo"' EXIT
    mkdir -p "${setting%/*}"
    echo 'create_main_cluster = false' >"$setting"
    if [ ! -e "$policy" ]; then
        undo="$undo $policy"
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update </dev/null
    apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" \
        </dev/null >/dev/null
}

# Whom the tests let in over SSH: anybody but root. `*` is no password, and not a locked account.
make_account() {
    id "$ACCOUNT" >/dev/null 2>&1 && return 0
    say "making the account $ACCOUNT, under which the tests use their cluster"
    useradd --create-home --shell /bin/bash --password '*' "$ACCOUNT"
}

missing=()
has_postgresql || missing+=(postgresql)
has_slurm || missing+=("${SLURM_PACKAGES[@]}")
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "the tests start servers of PostgreSQL, Slurm, MariaDB and OpenSSH, and this machine" >&2
        say "lacks some. Install them, on Debian and Ubuntu with 'sudo apt-get install" >&2
        say "${missing[*]}', and run again." >&2
        exit 1
    fi
    say "installing ${missing[*]}, which the tests need"
    install_packages "${missing[@]}"
    has_postgresql || { say "apt-get brought no PostgreSQL server: see above" >&2; exit 1; }
    has_slurm || { say "apt-get brought no complete Slurm: see above" >&2; exit 1; }
fi
if [ "$(id -u)" = 0 ]; then
    make_account
fi
