#!/bin/sh
# Sees to what `make` cannot assume of a machine: system packages, a Python, a Rust toolchain.
#
#   tools/prepare.sh system up|test   install the Debian packages of packages.apt that are missing
#   tools/prepare.sh python           print a Python of version 3.11 or newer
#   tools/prepare.sh rust             complain when there is no Rust 1.88 or newer
#
# Says nothing where nothing is to be done.
set -eu
here=$(dirname "$0")

fail() {
    printf '\n%s\n' "$@" >&2
    exit 1
}

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        # Started for real: a version manager's stand-in may exist and not run.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    fail "FastCache needs Python 3.11 or newer, and there is none on the PATH." \
        "On Debian 12 and later: apt-get install python3 python3-venv"
}

is_there() { # what
    case $1 in
        command:*) command -v "${1#command:}" >/dev/null 2>&1 ;;
        header:*) [ -e "/usr/include/${1#header:}" ] ;;
        python:*) "$(find_python)" -c "import ${1#python:}" >/dev/null 2>&1 ;;
    esac
}

# Packages of the given purposes that are missing, in one line.
missing() { # purpose...
    sed 's/#.*//' "$here/packages.apt" | while read -r what package purpose _; do
        case " $* " in *" $purpose "*) is_there "$what" || printf '%s ' "$package" ;; esac
    done
}

apt() {
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" >&2
}

system() { # up|test
    if [ "$1" = test ]; then required="up test talk" optional=""; else required="up" optional="talk"; fi
    packages=$(missing $required $optional)
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "==> Installing Debian packages: $packages"
        # No recommendations: a server is wanted for its program, not as a service.
        apt update || true
        apt install -y --no-install-recommends $packages || true
    fi
    packages=$(missing $required)
    [ -z "$packages" ] || fail "These are needed and missing; install them, then try again:" \
        "  sudo apt-get install $packages" "(or whatever your system calls them: see tools/packages.apt)"
}

rust() {
    advice="Install it as https://rustup.rs says; on Debian 13: apt-get install rustup && rustup default stable"
    version=$(cargo --version 2>/dev/null) || fail "FastCache's core is written in Rust, and there is no working cargo on the PATH." "$advice"
    minor=$(printf '%s' "$version" | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge 88 ] || fail "FastCache needs Rust 1.88 or newer; here is: $version" "$advice"
}

case ${1:-} in
    system) system "$2" ;;
    python) find_python ;;
    rust) rust ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
