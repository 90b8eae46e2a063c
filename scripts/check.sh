#!/bin/sh
# Says whether the committed .wasm files are what their sources give: builds all in a temporary folder and compares the bytes.
#
# A compiler that is missing, or is not the version in TOOLCHAINS, makes other bytes or none: its scripts are skipped, which is
# not a failure. A difference is one, and so is a script without its .wasm.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM

recorded() { sed -n "s/^$1 //p" "$here/TOOLCHAINS"; }

# The version of a compiler here; nothing if it is not here.
present() {
    case $1 in
        rust) (cd "$here" && rustc --version 2>/dev/null) | sed -n 's/^rustc \([0-9.]*\).*/\1/p' ;;
        clang) clang --version 2>/dev/null | sed -n 's/.*clang version \([0-9.]*\).*/\1/p' ;;
        lld) wasm-ld --version 2>/dev/null | sed -n 's/.*LLD \([0-9.]*\).*/\1/p' ;;
        assemblyscript) sed -n 's/^  "version": "\(.*\)",/\1/p' "$here/../sdk/assemblyscript/node_modules/assemblyscript/package.json" 2>/dev/null || : ;;
    esac
}

# Why a script's compilers cannot say anything; nothing if they can.
unlike() {
    for tool; do
        if [ "$(present "$tool")" != "$(recorded "$tool")" ]; then
            echo "$tool is $(present "$tool" | grep . || echo missing), the committed file is from $(recorded "$tool")"
            return
        fi
    done
}

same=0 skipped=0 failed=0
for toml in "$here"/*/script.toml; do
    name=$(basename "$(dirname "$toml")")
    if [ -f "$here/$name/Cargo.toml" ]; then why=$(unlike rust)
    elif [ -f "$here/$name/$name.c" ]; then why=$(unlike clang lld)
    else why=$(unlike assemblyscript)
    fi
    if [ -n "$why" ]; then
        echo "skipped $name: $why"
        skipped=$((skipped + 1))
    elif ! AETHER_SCRIPTS_OUT=$scratch AETHER_SCRIPTS_TARGET=$scratch/target "$here/build.sh" "$name" >"$scratch/log" 2>&1; then
        cat "$scratch/log"
        # Present in the right version, but not usable: a missing wasm32 target, for instance.
        if grep -q '^skipped' "$scratch/log"; then
            skipped=$((skipped + 1))
        else
            echo "failed $name: does not build"
            failed=$((failed + 1))
        fi
    elif cmp -s "$scratch/$name.wasm" "$here/$name/$name.wasm"; then
        same=$((same + 1))
    else
        echo "differs $name: scripts/$name/$name.wasm is not what its source gives; run scripts/build.sh $name and commit it"
        failed=$((failed + 1))
    fi
done
echo "$same the same, $skipped skipped, $failed not"
[ "$failed" -eq 0 ]
