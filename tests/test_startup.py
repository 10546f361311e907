"""The plugin's start-up: an ffmpeg where there is none, and an import that costs the other commands little."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowcam_ns.startup import ensure_ffmpeg, export_hint, process_age


def test_ffmpeg_comes_from_the_wheel_where_the_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    added = ensure_ffmpeg()
    assert added == tmp_path / "cache" / "flowcam" / "bin"
    program = shutil.which("ffmpeg")
    assert program is not None
    assert "ffmpeg version" in subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
    assert ensure_ffmpeg() is None, "now there is one"


def test_a_system_ffmpeg_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "ffmpeg"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ensure_ffmpeg() is None
    assert os.environ["PATH"] == str(tmp_path)


def test_export_hint_names_the_package_only_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert "libusb-1.0-0" in str(export_hint())
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libusb-1.0.so.0")
    assert export_hint() is None


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    """What nerfstudio itself does not import must wait until a run needs it."""
    code = (
        "import sys, nerfstudio.configs.experiment_config, nerfstudio.engine.trainer, "
        "nerfstudio.data.datamanagers.base_datamanager, nerfstudio.pipelines.base_pipeline, nerfstudio.viewer.viewer\n"
        "before = set(sys.modules)\n"
        "import flowcam_ns.method_configs.flowcam\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split("\n")[-2].split())
    assert "flowcam_ns" in loaded
    assert not loaded & {"av", "torchmetrics", "pandas", "imageio_ffmpeg", "open3d", "pycolmap", "evo"}


def test_a_process_knows_its_age() -> None:
    """A second before anything of ours is imported counts."""
    code = "import time; time.sleep(1); from flowcam_ns.startup import process_age; print(process_age())"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 0.95 < float(done.stdout) < time.monotonic() - started + 0.05
    assert process_age() > 0


def test_importing_the_plugin_loads_no_solver() -> None:
    code = "import sys, flowcam_ns.method_configs.flowcam; print('flowcam_ns.alignment.linearize' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False"
