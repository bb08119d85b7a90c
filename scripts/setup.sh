#!/usr/bin/env bash
# Makes the virtual environment: packages exactly as in requirements.txt, then this package itself. Says little.
# Usage: setup.sh PYTHON VENV STAMP. An environment that already has every pinned package is taken as it is.
set -euo pipefail
base="${1:-}" venv="$2" stamp="$3"

fail() { echo "set-up: $*" >&2; exit 1; }

[ -n "$base" ] || fail "no python3.11 was found. Install Python 3.11, or name it: make setup BASE_PYTHON=/path/to/python3.11"
found="$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" || fail "$base does not run"
[ "$found" = 3.11 ] || fail "$base is Python $found, and this needs 3.11. Name one: make setup BASE_PYTHON=/path/to/python3.11"

complete() {
  [ -x "$venv/bin/python" ] && "$venv/bin/python" - <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version

if sys.version_info[:2] != (3, 11):
    sys.exit(1)
for line in open("requirements.txt"):
    name, _, wanted = line.split("#")[0].split(";")[0].strip().partition("==")
    try:
        if name and version(name).split("+")[0] != wanted:
            sys.exit(1)
    except PackageNotFoundError:
        sys.exit(1)
PY
}

started=$SECONDS
if ! complete; then
  if ! { [ -x "$venv/bin/python" ] && [ "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = 3.11 ]; }; then
    echo "set-up: making $venv with $base"
    rm -rf "$venv"
    "$base" -m venv "$venv" || fail "$base could not make a virtual environment (on Debian: the package python3.11-venv)"
  fi
  echo "set-up: installing $(grep -c '==' requirements.txt) packages, some minutes the first time ..."
  # The lock is complete, so nothing is resolved and nothing outside it comes in.
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --no-deps --compile -r requirements.txt \
    || fail "pip could not install requirements.txt (see above)"
fi
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-build-isolation --editable . \
  || fail "pip could not install this package (see above)"
rm -f "$venv"/.nightmarket-*
touch "$stamp"
echo "set-up: $venv is ready after $((SECONDS - started)) s"
