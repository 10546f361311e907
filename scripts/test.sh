#!/usr/bin/env bash
# Makes the virtual environment where it is missing (or takes the one in FLOWCAM_VENV) and runs all tests, file by file
# on as many cores as there are, up to four. Arguments go on to pytest, alone: bash scripts/test.sh tests/geometry -x
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare
cd "$PROJECT"
if [ $# -gt 0 ]; then
  exec python -m pytest "$@"
fi
workers=$(nproc 2>/dev/null || echo 2)
export OMP_NUM_THREADS=1
exec python -m pytest --numprocesses "$((workers < 4 ? workers : 4))" --dist loadfile
