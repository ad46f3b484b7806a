#!/usr/bin/env bash
# Makes the environment in $1 from requirements.lock. uv where it can be had (seconds), else pip (a minute).
set -euo pipefail
venv=$1
python=${PYTHON:-python3.11}
"$python" -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "V7 needs Python 3.11 or 3.12, found " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.11 run")'
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check -q)
if "${pip[@]}" install uv 2>/dev/null && "$venv/bin/uv" pip install -q --python "$venv/bin/python" -r requirements.lock; then
  :
else
  echo "uv is not to be had here; pip takes a little longer"
  "${pip[@]}" install -r requirements.lock
fi
"${pip[@]}" install --no-deps --no-build-isolation -e . 2>/dev/null || { "${pip[@]}" install setuptools wheel && "${pip[@]}" install --no-deps --no-build-isolation -e .; }
# Byte code and kernels once, so that no start pays for them (a read-only or byte-code-less machine would, every time).
"$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python*/site-packages v7_pipeline >/dev/null 2>&1 || true  # some ship templates
"$venv/bin/v7" warmup
