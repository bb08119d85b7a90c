#!/usr/bin/env bash
# Measures rankers, scoring and a quiet night on one shop, beside the libraries one would pick instead.
# Usage: bench.sh PYTHON SHOP. Results go to var/bench/SHOP/*.json and to the terminal.
set -euo pipefail
python="$1" shop="$2"
folder="${NIGHTMARKET_HOME:-var}/bench" peers="${NIGHTMARKET_HOME:-var}/bench/peers"
results="$folder/$(basename "$shop")"
mkdir -p "$results"
# The peers stand beside the environment, which stays what the lock says; their own dependencies are in it.
if [ ! -d "$peers/implicit" ] || [ ! -d "$peers/faiss" ]; then
  echo "bench: installing implicit and faiss-cpu into $peers ..."
  "$python" -m pip install -qq --disable-pip-version-check --no-deps --target "$peers" implicit==0.7.3 faiss-cpu==1.15.1 \
    || echo "bench: they could not be installed; the comparison with them is left out"
fi
run() { printf '\n== %s\n' "$*"; "$python" "bench/$1.py" --shop "$shop" --json "$results/$1.json" "${@:2}"; }
run ranking
PYTHONPATH="$peers" run scoring
run touched --home "$folder/home"
printf '\nbench: the numbers are in %s\n' "$results"
