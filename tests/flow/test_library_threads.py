"""OpenCV and BLAS keep to one thread a call while threads of ours work, and have theirs back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from flowcam_ns.alignment.estimate import estimate_poses
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.flow.threads import one_library_thread
from flowcam_ns.synthetic.clip import make_clip


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def numpy_threads() -> int:
    return next(library["num_threads"] for library in threadpool_info() if "numpy" in library["filepath"])


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Some libraries never have more than one."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    with threadpool_limits(limits=2, user_api="blas"):
        yield
    cv2.setNumThreads(before)


def test_blocks_nest_and_overlap_and_the_last_one_to_end_puts_the_threads_back() -> None:
    first, second = one_library_thread(), one_library_thread()
    first.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(second.__enter__).result()
    with one_library_thread():
        assert (cv2.getNumThreads(), blas_threads()) == (1, {1})
    first.__exit__(None, None, None)
    assert (cv2.getNumThreads(), blas_threads()) == (1, {1})
    second.__exit__(None, None, None)
    assert (cv2.getNumThreads(), numpy_threads()) == (2, 2)


def test_poses_are_estimated_on_one_thread_a_call() -> None:
    seen: list[set[int]] = []
    clip = make_clip("orbit", seed=1, frames=6, width=96, height=54)
    estimate_poses(clip.to_frames(), clip.camera, AlignmentOptions(cache=False), lambda *_: seen.append(blas_threads()))
    assert len(seen) > 3
    assert seen == [{1}] * len(seen)
    assert numpy_threads() == 2
