#!/bin/sh
# Makes .venv from requirements.lock. Needs Python 3.11 or later; on Debian its venv module is a package of its own.
set -eu
cd "$(dirname "$0")/.."

for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ "${python:-}" ] || { echo "genxfer needs Python 3.11 or later: install it, or set PYTHON to its path." >&2; exit 1; }

if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing python3-venv ..." >&2
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } >&2
    else
        echo "$python has no venv module. Install it (Debian: sudo apt-get install python3-venv), then try again." >&2
        exit 1
    fi
fi

rm -f .venv/ready
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing the packages of requirements.lock into .venv (7.4 GB; two to four minutes) ..." >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r infra/bootstrap.lock
.venv/bin/uv pip sync --quiet --python .venv/bin/python --compile-bytecode --require-hashes infra/bootstrap.lock requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
touch .venv/ready
