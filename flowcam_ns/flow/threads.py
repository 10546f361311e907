"""The threads of libraries, OpenCV's and those of NumPy's and SciPy's BLAS, switched off while ours work."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

import cv2
from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_blocks = 0
_threads_before = 0
_blas: threadpool_limits | None = None


@contextmanager
def one_library_thread() -> Generator[None, None, None]:
    """OpenCV and BLAS run each call on one thread inside this block; blocks may nest and overlap between threads.

    The number of threads is a setting of the whole process, so the last block to end puts it back. DIS splits its work,
    and so its result, by the number of threads: with one, flow is the same on every machine. OpenBLAS's threads do not
    rest while they wait for each other: called from two threads of ours on a busy machine they nearly stood still.
    """
    global _blocks, _threads_before, _blas
    with _lock:
        if _blocks == 0:
            _threads_before = cv2.getNumThreads()
            cv2.setNumThreads(1)
            _blas = threadpool_limits(limits=1, user_api="blas")
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                cv2.setNumThreads(_threads_before)
                if _blas is not None:
                    _blas.restore_original_limits()
