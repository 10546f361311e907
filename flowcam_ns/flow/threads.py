"""OpenCV's own threads, switched off while ours work."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

import cv2

_lock = threading.Lock()
_blocks = 0
_threads_before = 0


@contextmanager
def one_opencv_thread() -> Generator[None, None, None]:
    """OpenCV runs each call on one thread inside this block; blocks may nest and overlap between threads.

    The number of threads is a setting of the whole process, so the last block to end puts it back. DIS splits its work,
    and so its result, by the number of threads: with one, flow is the same on every machine.
    """
    global _blocks, _threads_before
    with _lock:
        if _blocks == 0:
            _threads_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                cv2.setNumThreads(_threads_before)
