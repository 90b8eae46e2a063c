#!/usr/bin/env bash
# What the web tests need besides cargo: a browser, promtool, and two Python packages in an environment of their own.
#
#   tests/web/setup.sh DIR      prepares DIR/venv and DIR/promtool, installs chromium if no browser is here; repeated, it does nothing
#
# Says what is missing and how to get it, and fails: a test that cannot run is no test that passed.
set -euo pipefail
dir=$1
mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
# Changed versions make a new environment.
wanted="playwright==1.65.2 openapi-spec-validator==0.9.0 jsonschema==4.26.0"

fail() {
    printf 'web tests: %s\n' "$1" >&2
    exit 1
}

install() {
    [ "$(id -u)" = 0 ] || fail "$1 is missing: install the package $2 (apt-get install $2)"
    # Lists may be missing or old; another apt may be at work.
    { apt-get -o DPkg::Lock::Timeout=300 update -qq && apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$2"; } >"$dir/apt.log" 2>&1 ||
        fail "$1 is missing and could not be installed, see $dir/apt.log"
}

command -v python3 >/dev/null || install python3 python3-venv
if [ "$(cat "$dir/venv/wanted" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$dir/venv"
    python3 -m venv "$dir/venv" >"$dir/venv.log" 2>&1 || { install "python3's venv" python3-venv && python3 -m venv "$dir/venv"; }
    # shellcheck disable=SC2086 # a list
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check $wanted >"$dir/pip.log" 2>&1 ||
        fail "the Python packages $wanted could not be installed, see $dir/pip.log"
    printf '%s' "$wanted" >"$dir/venv/wanted"
fi
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || install chromium chromium
command -v openssl >/dev/null || install openssl openssl
# Out of its package, without the server that the package would start.
if ! command -v promtool >/dev/null && [ ! -x "$dir/promtool" ]; then
    mkdir -p "$dir/package"
    (cd "$dir/package" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg -x prometheus_*.deb .) \
        >"$dir/promtool.log" 2>&1 || fail "promtool is missing: install the package prometheus, see $dir/promtool.log"
    mv "$dir/package/usr/bin/promtool" "$dir/promtool"
    rm -rf "$dir/package"
fi
