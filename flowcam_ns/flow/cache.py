"""A cache on disk for flow: content-addressed, with a size cap, safe against two runs at once and damaged files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DEFAULT_MAX_BYTES = 4 * 2**30
"""Size cap of the cache."""
EVICT_TO = 0.9
"""Eviction goes down to this part of the cap, so that it does not run at every write."""
MAX_ENTRY_BYTES = 256 * 2**20
"""A larger file is not one of ours."""
STALE_SECONDS = 3600
"""A temporary file older than this belongs to a run that died."""
FOLDER = "flow"
ENTRY = re.compile(r"flow-[0-9a-f]{40}\.npz")
TEMPORARY = re.compile(r"flow-[0-9a-f]{40}\..*\.tmp")
UNREADABLE = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


def default_cache_dir() -> Path:
    """`$FLOWCAM_CACHE`, else `$XDG_CACHE_HOME/flowcam`, else `~/.cache/flowcam`."""
    if chosen := os.environ.get("FLOWCAM_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "flowcam"


def cache_key(*parts: bytes | str) -> str:
    """Name of an entry: a hash over `parts`, each with its length so that no two lists of parts run together."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class FlowCache:
    """Named bundles of arrays under `directory`/flow; the bundles used longest ago go when `max_bytes` is passed.

    It only ever reads, replaces or deletes files whose names it makes itself. Where it can't write, it says so once
    and the run goes on without. A method may be called from several threads and processes at once.
    """

    def __init__(self, directory: Path | str | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.directory = (Path(directory) if directory is not None else default_cache_dir()) / FOLDER
        self.max_bytes = max_bytes
        self.writable = True
        self._used: int | None = None  # not known before the first write
        self._lock = threading.Lock()

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays stored under `key`; None where there are none or the file is damaged."""
        path = self._path(key)
        try:
            if path.stat().st_size > MAX_ENTRY_BYTES:
                return None
            with np.load(path, allow_pickle=False) as bundle:
                arrays = {name: bundle[name] for name in bundle.files}
        except UNREADABLE:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # last use, for eviction: many systems don't keep access times
        return arrays

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store `arrays` under `key`, complete or not at all."""
        if not self.writable:
            return
        path = self._path(key)
        temporary: Path | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=self.directory)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **dict(arrays))
            size = temporary.stat().st_size
            temporary.replace(path)
            temporary = None
        except OSError as error:
            self._give_up(error)
            return
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        with self._lock:
            self._used = sum(size for _, size, _ in self._entries()) if self._used is None else self._used + size
            if self._used > self.max_bytes:
                self._evict()

    def _give_up(self, error: OSError) -> None:
        """Write no more, and say so once: several threads may have failed by now."""
        with self._lock:
            said, self.writable = not self.writable, False
        if not said:
            message = f"The flow cache {self.directory} can't be written ({error.strerror}); going on without it."
            warnings.warn(message, stacklevel=3)

    def _path(self, key: str) -> Path:
        path = self.directory / f"flow-{key}.npz"
        if not ENTRY.fullmatch(path.name):
            raise ValueError(f"not a cache key: {key!r}")
        return path

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of all entries; clears away what dead runs left."""
        entries = []
        for path in self.directory.iterdir():
            try:
                if ENTRY.fullmatch(path.name):
                    stat = path.stat()
                    entries.append((stat.st_mtime, stat.st_size, path))
                elif TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
            except OSError:
                continue  # another run removed it
        return entries

    def _evict(self) -> None:
        entries = sorted(self._entries())
        used = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if used <= EVICT_TO * self.max_bytes:
                break
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue
            used -= size
        self._used = used
