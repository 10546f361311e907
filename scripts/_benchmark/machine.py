"""What the figures were measured on and with; nothing that names the machine."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from _benchmark.tables import Value


def describe_machine() -> dict[str, Value]:
    """CPU, GPU, versions, command and date."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "cpu": f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"nerfstudio {version('nerfstudio')}, flowcam-ns {version('flowcam-ns')}",
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
