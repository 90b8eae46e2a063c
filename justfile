# What there is to do here: `just` lists it. Every recipe is one command that works without just.

_default:
    @just --list

# The dev cluster file with its live view; q or Ctrl-C saves and stops.
run *ARGS:
    cargo run --release -- run cluster-config/dev.toml {{ARGS}}

# All tests.
test:
    cargo test --workspace

# 200 rounds of kill -9 of the program itself, 200 bad versions; AETHER_SEED=N repeats a run's random numbers.
long:
    AETHER_LONG=1 cargo test --release --workspace --test all -- --nocapture survive:: bad_versions

# A hundred rounds of random faults over three nodes; AETHER_SEED=N repeats a run's random numbers.
chaos:
    AETHER_LONG=1 cargo test --release --workspace --test cluster -- --nocapture chaos

# Three nodes are upgraded one after the other from another build of the program, with every world up: `just rolling OLD_BINARY`.
rolling OLD:
    OLD_AETHER={{OLD}} cargo test --workspace --test cluster -- --nocapture all_nodes_can_be_restarted

# Worlds without faults beside worlds that trap a thousand times a second, in pairs of rounds: `PAIRS=20 just storm`.
storm:
    cargo build --release --workspace
    target/release/aether-bench storm

# The figures of a cluster: failover, moves, drain, reload, calls between nodes.
figures:
    cargo test --release --workspace --test cluster -- --ignored --nocapture --test-threads 1 figures

# Scripts compiled here for 64-bit ARM do there what they do here: by an emulator; says what to install.
aarch64:
    tests/aarch64.sh

# From save to live in `aether dev`.
live:
    cargo test --release --workspace --test all -- --ignored --nocapture author::figures

# Three nodes and a PostgreSQL on this machine.
three:
    cargo build --release
    cluster-config/three-node.sh

# Warnings are errors.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

fmt:
    cargo fmt --all

# The API documentation.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The book (docs/) as a site, with mdBook.
book:
    mdbook serve docs

# Write what the documents show of the code anew: settings, limits, host functions, sources.
bless:
    AETHER_BLESS=1 cargo test --workspace --test all docs::

# Aether beside bare wasmtime and other systems, into bench/README.md: all workloads or by name (`just bench W1 W4`); ROUNDS=5.
bench *WORKLOADS:
    cargo build --release --workspace
    target/release/aether-bench {{WORKLOADS}}

# Instructions of a turn against bench/instructions.toml, by valgrind; they repeat where times do not.
bench-check:
    cargo build --release --workspace
    target/release/aether-bench count

# A scenario of cluster-config/loadtest (or a file): `just loadtest town --seconds 30 --report before`.
loadtest SCENARIO *ARGS:
    cargo run --release -- loadtest {{SCENARIO}} {{ARGS}}

# Towns with reloads, crashes and players for so many minutes, in which nothing may grow.
soak MINUTES="60" *ARGS:
    cargo run --release -- loadtest soak --minutes {{MINUTES}} {{ARGS}}

# Build the game scripts, all or by name.
scripts *NAMES:
    scripts/build.sh {{NAMES}}

# Whether the committed .wasm files are what their sources give.
check-scripts:
    scripts/check.sh

# Licences, advisories, who may depend on what.
deny:
    cargo deny check

# Everything that must be good before a merge.
ci:
    bash .ci/run
