#!/bin/sh
# Installs PostgreSQL for the tests, if it is not there: they start servers of their own and use nothing of the system's.
# Debian and Ubuntu; as root, or with a sudo that asks for no password. Elsewhere: install PostgreSQL 15 or newer with initdb, postgres and psql in PATH.
set -eu

for dir in $(printf %s "$PATH" | tr ':' ' ') /usr/lib/postgresql/*/bin; do
  if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/psql" ]; then
    echo "PostgreSQL is there: $dir"
    exit 0
  fi
done

if ! command -v apt-get >/dev/null; then
  echo "no apt-get here: install PostgreSQL 15 or newer by hand, so that initdb, postgres and psql are in PATH" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root="sudo -n"
else
  echo "not root, and sudo wants a password: run 'sudo apt-get install -y postgresql' once" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Without a cluster of its own in the background: the tests want the programs.
$as_root mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
$as_root apt-get update
$as_root apt-get install -y --no-install-recommends postgresql
