#!/usr/bin/env bash
# Makes the virtual environment where it is missing (or takes the one in FLOWCAM_VENV) and runs all tests.
# Arguments go on to pytest: bash scripts/test.sh tests/geometry -x
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare
cd "$PROJECT"
exec python -m pytest "$@"
