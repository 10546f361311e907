"""Files and folders that are there whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowcam_ns.errors import FlowCamError

MANIFEST = ".flowcam_files.json"
"""Lists what we wrote into a folder, so that a later run replaces that and nothing else."""

LAST = ("transforms.json", MANIFEST)
"""Moved last: a folder that is only half exchanged must not look finished."""

_PARTIAL = ".partial-"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) to write to; it becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}{_PARTIAL}{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one go (UTF-8)."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON in one go; NaN and infinity, which JSON does not know, raise ValueError."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def check_output_folder(
    folder: Path, overwrite: bool = False, source: Path | None = None, subfolders: Sequence[str] = ()
) -> None:
    """Raise FlowCamError where `atomic_folder` may not or cannot write; cheap, so ask before the work starts.

    Args:
        folder: Where the result is meant to go.
        overwrite: Whether files of the same names may be replaced in a folder that holds something else.
        source: The input, which the result must not be written into.
        subfolders: The folders inside `folder` that the result writes to.
    """
    if folder.exists() and not folder.is_dir():
        raise FlowCamError(f"{folder} is a file; give --output-dir a folder.")
    if source is not None and _would_mix(folder.resolve(), source.resolve(), subfolders):
        raise FlowCamError(f"{folder} holds the input; choose another --output-dir.")
    nearest = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise FlowCamError(f"No permission to write to {nearest}; choose another --output-dir.")
    if overwrite or not folder.exists():
        return
    if not (folder / MANIFEST).is_file():
        if any(not entry.name.startswith(_PARTIAL) for entry in folder.iterdir()):
            raise FlowCamError(f"{folder} is not empty; choose another --output-dir or add --overwrite.")
        return
    changed = [name for name, stamp in _read_manifest(folder).items() if _stamp(folder / name) not in (stamp, None)]
    if changed:
        raise FlowCamError(
            f"{folder / changed[0]} was changed since it was written; choose another --output-dir or add --overwrite."
        )


@contextmanager
def atomic_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder to fill; its files become those of `folder` when the block ends well, else nothing changes.

    A folder written by an earlier run is brought up to date: its files are replaced, those that are no longer part of
    the result go, and whatever else lies there stays. See `check_output_folder` for what is refused.
    """
    check_output_folder(folder, overwrite)
    # Inside an existing folder, because only that is sure to be on the same disk and writable.
    temporary = folder / f"{_PARTIAL}{os.getpid()}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}{_PARTIAL}{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        names = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
        manifest = {"written_by": "flowcam", "files": {name: _stamp(temporary / name) for name in sorted(names)}}
        write_json(temporary / MANIFEST, manifest)
        with _uninterrupted():
            if folder.exists():
                _exchange(temporary, folder, [*names, MANIFEST], overwrite)
            else:
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(temporary: Path, folder: Path, names: list[str], overwrite: bool) -> None:
    """Move the files of `temporary` to `folder` and remove what an earlier run wrote and this one did not."""
    earlier = _read_manifest(folder)
    foreign = [name for name in names if name != MANIFEST and name not in earlier and (folder / name).exists()]
    if foreign and not overwrite:
        raise FlowCamError(f"{folder / foreign[0]} is not ours to replace; choose another --output-dir.")
    if "transforms.json" in earlier or overwrite:
        (folder / "transforms.json").unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: (LAST.index(name) if name in LAST else -1, name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).replace(folder / name)
    for name in set(earlier) - set(names):
        path = folder / name
        if _stamp(path) == earlier[name]:
            path.unlink()
        if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _would_mix(folder: Path, source: Path, subfolders: Sequence[str]) -> bool:
    """Whether the input is the output folder itself or lies in one of the folders that will be written to."""
    written = {folder / name for name in subfolders}
    return source == folder or not written.isdisjoint((source, *source.parents))


def _stamp(path: Path) -> list[int] | None:
    """[bytes, modification time in ns] of a file, None where there is none: tells whether somebody changed it."""
    if path.is_symlink() or not path.is_file():
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read_manifest(folder: Path) -> dict[str, list[int]]:
    """What an earlier run wrote, by relative path; empty where there is no sound manifest."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        inside = {name: stamp for name, stamp in files.items() if not Path(name).is_absolute()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    root = folder.resolve()
    return {name: stamp for name, stamp in inside.items() if root in (folder / name).resolve().parents}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
