#!/usr/bin/env bash
# The cluster of three-node.toml on this machine: a PostgreSQL of its own, certificates, three nodes. Ctrl-C saves and stops all of it.
#
# Everything is in data/three: remove that folder to begin anew. AETHER=PATH is the program (target/release/aether if it says nothing).
# What a node prints goes to data/three/NAME.log. A node that ends (kill -9 one!) is not started again: the command for that is printed.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

config=cluster-config/three-node.toml
data=data/three
port=7400 # as in the file
nodes=(a b c)
aether=${AETHER:-target/release/aether}

die() {
    printf 'three-node.sh: %s\n' "$*" >&2
    exit 1
}

[ -x "$aether" ] || die "there is no $aether: cargo build --release"

# The newest PostgreSQL that is here.
find_postgres() {
    local dir
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) $(tr ':' ' ' <<<"$PATH"); do
        if [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ]; then
            printf '%s\n' "$dir"
            return
        fi
    done
    return 1
}

bin=$(find_postgres) || {
    [ -x tests/install-postgres.sh ] || die "PostgreSQL 15 or later is needed (apt-get install postgresql)"
    tests/install-postgres.sh
    bin=$(find_postgres) || die "PostgreSQL is still not to be found"
}

# PostgreSQL refuses to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid postgres --regid postgres --clear-groups -- "$@")
    else
        "$@"
    fi
}

mkdir -p "$data"
pg=$(realpath "$data")/pg
if [ ! -s "$pg/PG_VERSION" ]; then
    mkdir -p "$pg"
    chmod 700 "$pg"
    [ "$(id -u)" != 0 ] || chown postgres:postgres "$pg"
    as_postgres "$bin/initdb" -A trust -U aether -E UTF8 --no-locale -D "$pg" >"$data/initdb.log" 2>&1 ||
        die "initdb failed, see $data/initdb.log (as root, user postgres must be able to reach $pg)"
fi

started=()
# Nodes first: they save their worlds.
stop() {
    trap - EXIT INT TERM
    printf '\nstopping\n'
    for process in "${started[@]}"; do
        kill -TERM "$process" 2>/dev/null || true
    done
    for process in "${started[@]}"; do
        wait "$process" 2>/dev/null || true
    done
    as_postgres "$bin/pg_ctl" -D "$pg" -m fast -w stop >/dev/null 2>&1 || true
    for node in "${nodes[@]}"; do
        printf '%s: %s\n' "$node" "$(tail -n 1 "$data/$node.log" 2>/dev/null)"
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# One that a killed script left goes on.
as_postgres "$bin/pg_ctl" -D "$pg" status >/dev/null 2>&1 ||
    as_postgres "$bin/pg_ctl" -D "$pg" -w -l "$pg/server.log" \
        -o "-h 127.0.0.1 -p $port -c unix_socket_directories= -c max_connections=200" start >/dev/null ||
    die "PostgreSQL did not start, see $pg/server.log"
psql=("$bin/psql" -XAtq -h 127.0.0.1 -p "$port" -U aether -d postgres -c)
if [ "$("${psql[@]}" "SELECT count(*) FROM pg_database WHERE datname = 'aether'")" = 0 ]; then
    "${psql[@]}" 'CREATE DATABASE aether'
fi

[ -d "$data/ca" ] || "$aether" cluster init-ca "$data/ca" --name three
for node in "${nodes[@]}"; do
    mkdir -p "$data/$node"
    # Anew each time: certificates run out.
    "$aether" cluster issue "$node" --ca "$data/ca" --out "$data/$node/identity" --host 127.0.0.1 >/dev/null
done

# Nodes have sessions of their own: Ctrl-C is this script's, which stops them in order.
for node in "${nodes[@]}"; do
    setsid "$aether" node "$config" --name "$node" --plain </dev/null >"$data/$node.log" 2>&1 &
    started+=($!)
done
for i in "${!nodes[@]}"; do
    node=${nodes[$i]}
    for _ in $(seq 600); do
        grep -q "^node $node up" "$data/$node.log" && break
        kill -0 "${started[$i]}" 2>/dev/null || die "node $node ended: $(tail -n 3 "$data/$node.log")"
        sleep 0.1
    done
    grep -q "^node $node up" "$data/$node.log" || die "node $node does not come up, see $data/$node.log"
    address=$(sed -n "/^name = \"$node\"/,/^data_dir/s/^listen = \"\([^\"]*\)\".*/\1/p" "$config")
    printf 'node %s: %s, process %s, log %s\n' "$node" "$address" "${started[$i]}" "$data/$node.log"
done
cat <<TEXT
database: postgres://aether@127.0.0.1:$port/aether

  $aether --cluster $config nodes
  $aether --cluster $config placement
  $aether --cluster $config move town-1 b
  kill -9 ${started[2]}    # its worlds go on elsewhere; then start it again:
  $aether node $config --name c

Ctrl-C saves and stops all of it.
TEXT
# Until Ctrl-C, whatever becomes of them.
while :; do
    sleep 1
done
