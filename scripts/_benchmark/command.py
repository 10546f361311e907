"""Commands run in processes of their own, timed and weighed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB_PER_RSS_UNIT = 1 / 1024
"""Linux counts the resident set in KiB."""

WEIGH = """
import resource, subprocess, sys
try:
    code = subprocess.run(sys.argv[2:], stdout=sys.stderr, timeout=float(sys.argv[1])).returncode
except subprocess.TimeoutExpired:
    sys.exit(f"stopped after {sys.argv[1]} seconds")
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Runs a command and prints the largest resident set among it and its children. A process of its own, because a child
starts out with its parent's memory on its account: this one has next to none."""

NO_LIMIT = 1e6


@dataclass(frozen=True)
class Finished:
    """What a command cost."""

    seconds: float
    peak_mib: float
    """Resident memory of its largest process."""


def run(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, time_limit: float = NO_LIMIT
) -> Finished:
    """Run one of the environment's commands to its end.

    Args:
        command: name of a program beside this Python's, and its arguments.
        log: file for its output.
        environment: variables on top of this process's own.
        time_limit: seconds after which it is stopped.

    Raises:
        RuntimeError: it failed, or ran out of time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    program = str(Path(sys.executable).with_name(command[0]))
    weighed = [sys.executable, "-S", "-c", WEIGH, str(time_limit), program, *command[1:]]
    variables = {**os.environ, **(environment or {})}
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.run(weighed, stdout=subprocess.PIPE, stderr=output, text=True, check=False, env=variables)
    seconds = time.monotonic() - started
    if process.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed with exit code {process.returncode}; see {log}")
    return Finished(seconds, int(process.stdout) * MIB_PER_RSS_UNIT)
