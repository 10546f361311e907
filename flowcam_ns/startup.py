"""What the plugin arranges for nerfstudio's commands: an `ffmpeg` to write videos with, a word on what is missing."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

_IMPORTED = time.monotonic()


def ensure_ffmpeg() -> Path | None:
    """Put the ffmpeg that imageio-ffmpeg ships on PATH where the system has none; returns the folder added, if any.

    nerfstudio and mediapy look for an executable of exactly that name; the wheel's is called otherwise, so a link of
    the right name is made in the user's cache folder. Nothing is imported: this runs in every ns-* command.
    """
    if shutil.which("ffmpeg") is not None:
        return None
    binary = _packaged_ffmpeg()
    if binary is None:
        return None
    name = "ffmpeg.exe" if sys.platform == "win32" else "ffmpeg"
    for parent in (_cache_folder(), Path(tempfile.gettempdir()) / f"flowcam-{os.getpid()}"):
        try:
            folder = _linked(binary, parent / "bin", name)
        except OSError:
            continue
        os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), str(folder)]))
        return folder
    return None


def process_age() -> float:
    """Seconds since this process was started, imports included; where the system does not tell, since this import."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED


def export_hint() -> str | None:
    """What to install before `ns-export` can start, if anything (without it, open3d cannot be imported)."""
    if not sys.platform.startswith("linux") or ctypes.util.find_library("usb-1.0") is not None:
        return None
    return "ns-export needs a system package that is missing here: sudo apt install libusb-1.0-0"


def _packaged_ffmpeg() -> Path | None:
    spec = importlib.util.find_spec("imageio_ffmpeg")
    if spec is None or spec.origin is None:
        return None
    binaries = sorted((Path(spec.origin).parent / "binaries").glob("ffmpeg-*"))
    return next((path for path in binaries if os.access(path, os.X_OK)), None)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "flowcam"


def _linked(binary: Path, folder: Path, name: str) -> Path:
    """`folder`, holding a link `name` to `binary`; made under a temporary name so that two runs do not collide."""
    link = folder / name
    if link.exists() and link.resolve() == binary.resolve():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}"
    try:
        temporary.symlink_to(binary)
    except OSError:
        shutil.copy2(binary, temporary)
    temporary.replace(link)
    return folder
