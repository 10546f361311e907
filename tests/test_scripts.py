"""The scripts' environment: what a machine lacks is said in one line each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", [*PROJECT.glob("scripts/*.sh"), PROJECT / ".ci/run"], ids=lambda path: path.name)
def test_every_shell_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_this_python_is_accepted(tmp_path: Path) -> None:
    run = _sourced("find_python", FLOWCAM_PYTHON=sys.executable)
    assert (run.returncode, run.stdout.strip()) == (0, sys.executable)


def test_a_python_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    run = _sourced("find_python", FLOWCAM_PYTHON=str(_program(tmp_path / "python", "exit 1")))
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "is not Python 3.10, 3.11 or 3.12" in run.stderr


def test_a_missing_compiler_is_told_in_one_line() -> None:
    run = _sourced(f"check_build_tools {sys.executable}", CC="no-such-compiler")
    assert run.returncode == 1
    assert run.stderr == "error: there is no C compiler: apt install gcc\n"


def test_missing_headers_are_told_in_one_line(tmp_path: Path) -> None:
    """A Python whose check for Python.h fails, as on a Debian without python3-dev."""
    script = f'case "$2" in *Python.h*) exit 1;; esac; exec {sys.executable} "$@"'
    run = _sourced(f"check_build_tools {_program(tmp_path / 'python', script)}")
    assert run.returncode == 1
    assert run.stderr.startswith("error: Python's headers (Python.h) are missing: apt install python3.")


def test_an_environment_that_was_installed_is_not_installed_again(tmp_path: Path) -> None:
    """Called twice with a stand-in for pip: the second call finds the stamp of the first."""
    calls = tmp_path / "calls"
    _program(tmp_path / "python", f"echo called >> {calls}")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):
        assert _sourced("install_project", FLOWCAM_VENV=str(tmp_path), PATH=path).returncode == 0
    assert calls.read_text() == "called\n"


def test_threads_are_limited_but_a_users_choice_stays() -> None:
    assert 1 <= int(_sourced("limit_threads; echo $OMP_NUM_THREADS", OMP_NUM_THREADS="").stdout) <= 8
    assert _sourced("limit_threads; echo $OMP_NUM_THREADS", OMP_NUM_THREADS="3").stdout == "3\n"


def _program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _sourced(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail; source scripts/environment.sh; {command}"
    return subprocess.run(
        ["bash", "-c", script], cwd=PROJECT, env={**os.environ, **environment}, capture_output=True, text=True
    )
