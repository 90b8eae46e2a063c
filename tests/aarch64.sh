#!/usr/bin/env bash
# Native code for 64-bit ARM that was compiled on x86-64, run by an emulator: every script must do there what it does here.
#
# Builds the example other_machine for both machines, lets it compile the game scripts and some cases of its own here, runs them on both,
# and compares what it prints line by line. Says what to install where something is missing. About ten minutes the first time.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

target=aarch64-unknown-linux-gnu
linker=aarch64-linux-gnu-gcc
missing=()
emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || missing+=("apt-get install qemu-user-static")
command -v "$linker" >/dev/null || missing+=("apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
rustc --print target-libdir --target "$target" 2>/dev/null | xargs -r test -d || missing+=("rustup target add $target")
if ((${#missing[@]})); then
    printf 'missing, so nothing was run: %s\n' "${missing[@]}" >&2
    exit 1
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$linker CC_aarch64_unknown_linux_gnu=$linker
cargo build --quiet --locked --workspace --example other_machine
# Only what the example needs, in a folder of its own: the features of one package alone are others than those of the workspace.
cargo build --quiet --locked -p aether-engine --example other_machine --target "$target" --target-dir target/aarch64

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
here=target/debug/examples/other_machine
there=target/aarch64/$target/debug/examples/other_machine
"$here" make "$folder"
"$here" run "$folder" >"$folder/here"
"$emulator" -L /usr/aarch64-linux-gnu "$there" run "$folder" >"$folder/there"
if ! diff "$folder/here" "$folder/there"; then
    echo 'scripts do other things on 64-bit ARM (>) than here (<)' >&2
    exit 1
fi
cat "$folder/there"
printf '%s scripts do the same on 64-bit ARM as here\n' "$(wc -l <"$folder/there")"
