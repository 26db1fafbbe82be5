#!/usr/bin/env bash
# Makes what the Makefile needs. Each step leaves its stamp last, so a step that was cut short is
# done again; of two set-ups at once, the second waits for the first and finds the work done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
lock() { exec 9<setup.sh; if have flock; then flock 9; fi; }

# --- Python: one environment, for running first, for developing too later

find_python() {
    local candidate bare="" candidates=(python3 python3.14 python3.13 python3.12 python3.11 python)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
        bare=$candidate
    done
    [ -z "$bare" ] || fail "$bare cannot make environments: install its venv module (Debian: apt-get install python3-venv)."
    fail "Python 3.11 or newer is needed and was not found: install it, or name yours with PYTHON=/path/to/python3."
}

make_environment() {
    local python
    python=$(find_python)
    say "Making .venv with $("$python" -V) …"
    "$python" -m venv --clear .venv
}

# An environment whose making or filling was killed can look whole to pip: only a stamp tells.
whole() { [ -e .venv/.runtime ] && .venv/bin/python -c '' 2>/dev/null; }

installed() { # requirements, stamp
    whole && [ "$2" -nt "$1" ] && [ ! .venv/bin/python -nt "$2" ]
}

install() { # requirements, then the stamps that they earn
    local requirements=$1
    shift
    lock
    if installed "$requirements" "$1"; then return; fi
    whole || make_environment
    rm -f .venv/.runtime .venv/.developer
    say "Installing the packages of $requirements …"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input \
        --require-hashes -r "$requirements" </dev/null >&2 ||
        fail "The packages could not be installed: see above, then start again."
    touch "$@"
}

# --- The Claude Code CLI: the pinned one, unless another is named or npm is not here

cli_runs() { node_modules/.bin/claude --version >/dev/null 2>&1; }

cli() { # stamp
    if [ -n "${CLAUDE_BIN:-}" ] || grep -qsE '^(export )?CLAUDE_BIN=.' .env; then return; fi
    if ! have npm; then
        have claude || fail "Claude Code is needed: install npm, or put claude on PATH, or name it with CLAUDE_BIN."
        return 0
    fi
    lock
    if [ "$1" -nt package-lock.json ] && [ "$1" -nt package.json ]; then return; fi
    say "Installing the Claude Code CLI …"
    npm ci --loglevel=error --no-update-notifier </dev/null >&2 ||
        fail "The Claude Code CLI could not be installed: see above, or name yours with CLAUDE_BIN."
    # Where npm is told to run no install scripts, the CLI's own is still owed.
    cli_runs || node node_modules/@anthropic-ai/claude-code/install.cjs || true
    cli_runs || fail "The Claude Code CLI was installed but does not start: name one that does with CLAUDE_BIN."
    touch "$1"
}

# --- Programs from the system's packages

missing() { # program:package …
    local pair
    for pair in "$@"; do
        have "${pair%%:*}" || printf '%s ' "${pair##*:}"
    done
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true
    apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

packages() { # program:package …
    local wanted
    PATH="$PATH$(printf ':%s' /usr/lib/postgresql/*/bin)"
    read -ra wanted < <(missing "$@"; echo)
    [ ${#wanted[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && have apt-get; then
        say "Installing ${wanted[*]} …"
        # Without our lock: a server that a package starts would hold it for ever.
        if install_packages "${wanted[@]}" </dev/null >/dev/null; then return; fi
    fi
    say "Not installed here: ${wanted[*]}. What needs them will say so."
}

case "${1:-}" in
    runtime) install requirements.txt .venv/.runtime ;;
    developer) install requirements-dev.txt .venv/.developer .venv/.runtime ;;
    cli) cli node_modules/.installed ;;
    packages) shift; packages "$@" ;;
    *) fail "usage: setup.sh runtime | developer | cli | packages program:package …" ;;
esac
