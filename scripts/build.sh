#!/bin/sh
# Builds the game scripts: build.sh [NAME...], all by default. NAME.wasm lands beside its source.
#
# What a script is written in shows in its folder: Cargo.toml is Rust, NAME.c is C, assembly/index.ts is AssemblyScript. A
# compiler that is missing is named, with where to get it, and its scripts are left as they are: that is an error only if they
# were asked for by name.
#
# The same sources and compilers give the same bytes, wherever the repository lies: compilers see relative paths only, names and
# producers are stripped.
#
# AETHER_SCRIPTS_OUT=DIR puts the .wasm there instead, AETHER_SCRIPTS_TARGET=DIR is cargo's folder (check.sh sets both).
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname "$here")
sdk=$root/sdk/assemblyscript
target=${AETHER_SCRIPTS_TARGET:-$here/target}
status=0

language() {
    if [ -f "$here/$1/Cargo.toml" ]; then echo rust
    elif [ -f "$here/$1/$1.c" ]; then echo c
    elif [ -f "$here/$1/assembly/index.ts" ]; then echo assemblyscript
    else echo none
    fi
}

# Prints what is missing for a language and how to get it; nothing if it is all there.
missing() {
    case $1 in
        rust)
            command -v cargo >/dev/null || { echo "cargo: install rustup, then the toolchain of rust-toolchain.toml"; return; }
            # In scripts/, so that a toolchain file of the repository counts.
            libdir=$(cd "$here" && rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null) || libdir=
            [ -n "$libdir" ] && [ -d "$libdir" ] || echo "target wasm32-unknown-unknown: rustup target add wasm32-unknown-unknown"
            ;;
        c)
            command -v clang >/dev/null || { echo "clang: apt-get install clang lld"; return; }
            command -v wasm-ld >/dev/null || echo "wasm-ld: apt-get install lld"
            ;;
        assemblyscript)
            command -v node >/dev/null || { echo "node (20 or newer): apt-get install nodejs npm"; return; }
            [ -f "$sdk/node_modules/assemblyscript/bin/asc.js" ] || echo "assemblyscript: npm ci, in sdk/assemblyscript"
            ;;
        none) echo "source: neither Cargo.toml nor NAME.c nor assembly/index.ts" ;;
    esac
}

# Cargo puts a hash of where a package lies into its symbols, and symbols decide the order of code. Inside a workspace that is
# the path from its root, so here the SDK is moved inside: a workspace of links, the same from everywhere.
stage_rust() {
    rm -rf "$target/stage"
    mkdir -p "$target/stage/.cargo"
    sed -e 's|"\.\./crates/sdk"|"sdk"|' -e 's|^resolver = .*|&\nexclude = ["sdk"]|' "$here/Cargo.toml" >"$target/stage/Cargo.toml"
    cp "$here/Cargo.lock" "$target/stage/"
    cp "$here/.cargo/config.toml" "$target/stage/.cargo/"
    ln -s "$root/crates/sdk" "$target/stage/sdk"
    for manifest in "$here"/*/Cargo.toml; do
        folder=$(dirname "$manifest")
        ln -s "$folder" "$target/stage/$(basename "$folder")"
    done
}

build_rust() {
    stage_rust
    (cd "$target/stage" && env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS cargo build --quiet --locked --release --target wasm32-unknown-unknown --target-dir "$target" --package "$1")
    cp "$target/wasm32-unknown-unknown/release/$1.wasm" "$2"
}

build_c() {
    # The stack lies below the data, so an overflow traps. 16 KiB is plenty for what is written here.
    (cd "$here/$1" && clang --target=wasm32 -std=c11 -O2 -Wall -Wextra -Wno-unused-parameter -ffreestanding -nostdlib \
        -mbulk-memory -mnontrapping-fptoint -msign-ext \
        -Wl,--no-entry,--stack-first,-z,stack-size=16384,--strip-all "$1.c" -o "$2")
}

build_assemblyscript() {
    # `abort` is no import: it ends in the SDK's `fail`. 16 pages are the sample limit of 1 MiB.
    (cd "$root" && node "$sdk/node_modules/assemblyscript/bin/asc.js" "scripts/$1/assembly/index.ts" --baseDir . -o "$2" \
        -O3s --converge --runtime incremental --stackSize 16384 --maximumMemory 16 \
        --use abort=sdk/assemblyscript/assembly/index/fail)
}

asked=$#
if [ "$asked" -eq 0 ]; then
    for toml in "$here"/*/script.toml; do set -- "$@" "$(basename "$(dirname "$toml")")"; done
fi

for name; do
    language=$(language "$name")
    why=$(missing "$language")
    if [ -n "$why" ]; then
        echo "skipped $name: needs $why" >&2
        [ "$asked" -eq 0 ] || status=1
        continue
    fi
    out=${AETHER_SCRIPTS_OUT:-$here/$name}/$name.wasm
    # Beside it first: who watches the file never sees half of it.
    "build_$language" "$name" "$out.new"
    chmod 644 "$out.new"
    mv "$out.new" "$out"
    echo "built $name ($language, $(wc -c <"$out" | tr -d ' ') bytes)"
done
exit $status
