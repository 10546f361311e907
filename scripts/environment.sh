# Sourced by the other scripts: finds or makes the project's virtual environment, installs the project there and
# activates it. An existing environment can be given in FLOWCAM_VENV, a Python to make one with in FLOWCAM_PYTHON.

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${FLOWCAM_VENV:-$PROJECT/.venv}

fail() {
  echo "error: $*" >&2
  exit 1
}

python_fits() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# Print the Python to use: FLOWCAM_PYTHON, or the first of the usual names whose version fits.
find_python() {
  local name
  if [ -n "${FLOWCAM_PYTHON:-}" ]; then
    python_fits "$FLOWCAM_PYTHON" || fail "FLOWCAM_PYTHON=$FLOWCAM_PYTHON is not Python 3.10, 3.11 or 3.12"
    echo "$FLOWCAM_PYTHON"
    return
  fi
  for name in python3.11 python3.12 python3.10 python3; do
    if python_fits "$name"; then
      echo "$name"
      return
    fi
  done
  fail "Python 3.10, 3.11 or 3.12 is needed; install one (apt install python3.11 python3.11-venv python3.11-dev), or name one in FLOWCAM_PYTHON"
}

# Two of nerfstudio's dependencies are compiled while they are installed: say what is missing before pip does at length.
check_build_tools() {
  local python=$1 compiler=${CC:-cc} version
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv module is missing: apt install python$version-venv"
  "$python" -c 'import pathlib, sys, sysconfig; sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())' ||
    fail "Python's headers (Python.h) are missing: apt install python$version-dev"
  command -v "${compiler%% *}" >/dev/null || fail "there is no C compiler: apt install gcc"
}

make_environment() {
  local python
  if [ ! -x "$VENV/bin/python" ]; then
    python=$(find_python) || exit 1
    check_build_tools "$python"
    echo "making a virtual environment in $VENV with $("$python" --version)"
    "$python" -m venv "$VENV"
  fi
  python_fits "$VENV/bin/python" || fail "$VENV does not hold Python 3.10, 3.11 or 3.12: remove it or set FLOWCAM_VENV"
  # shellcheck disable=SC1091
  source "$VENV/bin/activate"
}

# Install the project with its development tools, unless this very project file was installed before.
install_project() {
  local stamp=$VENV/.flowcam-installed state
  state="$PROJECT $(cksum <"$PROJECT/pyproject.toml")"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
    return
  fi
  echo "installing the project and what it needs (several minutes the first time)"
  python -m pip install --quiet --disable-pip-version-check --editable "$PROJECT[dev]" ||
    fail "pip could not install the project; its messages are above"
  echo "$state" >"$stamp"
}

# Threads for this process and its children: every core, but no more than small tensors can use.
limit_threads() {
  local cores
  cores=$(nproc 2>/dev/null || echo 2)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores < 8 ? cores : 8))}
}

# Weights lying beside the project are used instead of being downloaded.
use_local_weights() {
  if [ -z "${TORCH_HOME:-}" ] && [ -d "$PROJECT/../shared/weights" ]; then
    TORCH_HOME=$(cd "$PROJECT/../shared/weights" && pwd)
    export TORCH_HOME
  fi
}

hint_at_libusb() {
  if ! python -c 'import ctypes; ctypes.CDLL("libusb-1.0.so.0")' 2>/dev/null; then
    echo "note: ns-export needs a system library that is missing here: apt install libusb-1.0-0"
  fi
}

prepare() {
  make_environment
  install_project
  limit_threads
  use_local_weights
  hint_at_libusb
}
