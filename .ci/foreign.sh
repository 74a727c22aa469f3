#!/usr/bin/env bash
# Installs the model server that tests/foreign puts behind the proxy (about 1 GB) in a virtual environment outside the
# repository: $FOREIGN_MODEL_VENV, or a folder in the user's cache where the tests look as well. Status 1: not to be had.
set -euo pipefail
wanted="$(dirname "${BASH_SOURCE[0]}")/../tests/foreign/requirements.txt"
venv=${FOREIGN_MODEL_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/qproxy/foreign}
unset PIP_CONSTRAINT # that of our own environment

if cmp -s "$wanted" "$venv/installed.txt"; then
    exit
fi

# The newest Python is the last one to get a build of torch.
python=python3
for each in python3.11 python3.12; do
    if "$each" -c '' 2>/dev/null; then
        python=$each
        break
    fi
done

if [[ -e $venv && ! -e $venv/pyvenv.cfg ]]; then
    echo "$venv is there and no virtual environment: nothing is installed into it"
    exit 1
fi
"$python" -m venv --clear "$venv"
if ! timeout 300 "$venv/bin/pip" install -q --only-binary=:all: --no-compile -r "$wanted" 2>"$venv/pip.log"; then
    tail -n 5 "$venv/pip.log"
    exit 1
fi
cp "$wanted" "$venv/installed.txt"
