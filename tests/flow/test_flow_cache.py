"""The flow cache: hits, size cap, damage, and several runs at once."""

from __future__ import annotations

import errno
import multiprocessing
import os
import tempfile
import threading
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from flowcam_ns.flow.cache import FlowCache, cache_key, default_cache_dir
from flowcam_ns.flow.dis import DISFlow
from flowcam_ns.flow.store import FlowStore


class CountingDIS(DISFlow):
    calls = 0

    def __call__(self, first, second, initial=None):
        self.calls += 1
        return super().__call__(first, second, initial)


def frames(count: int = 3, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(140, 200)).astype(np.float32)
    plane = cv2.GaussianBlur(noise, (0, 0), 2.0)
    plane = np.clip(128 + 50 * plane / plane.std(), 0, 255).astype(np.uint8)
    return np.stack([np.repeat(plane[:120, 3 * k : 3 * k + 160, None], 3, axis=2) for k in range(count)])


def entry(value: int = 0) -> dict[str, np.ndarray]:
    return {"flow": np.full(1000, value, np.int16)}


def test_a_second_run_takes_flow_from_the_cache(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        estimator = CountingDIS()
        store = FlowStore(frames(), estimator, cache=FlowCache(tmp_path))
        results.append((store.sample([(0, 1), (2, 0)], store.good_points(30)), estimator.calls))
    assert [calls for _, calls in results] == [6, 0]
    for left, right in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("changed", ["image", "size", "estimator"])
def test_what_changes_the_flow_changes_the_entry(tmp_path: Path, changed: str) -> None:
    FlowStore(frames(), CountingDIS(), cache=FlowCache(tmp_path)).compute([(0, 1)])
    estimator = CountingDIS(patch_stride=5) if changed == "estimator" else CountingDIS()
    images = frames(seed=1) if changed == "image" else frames()
    long_side = 100 if changed == "size" else 512
    FlowStore(images, estimator, long_side=long_side, cache=FlowCache(tmp_path)).compute([(0, 1)])
    assert estimator.calls == 2


@pytest.mark.parametrize("damage", ["truncated", "garbage", "flipped", "empty", "pickle", "shape"])
def test_a_damaged_file_is_a_miss_and_is_replaced(tmp_path: Path, damage: str) -> None:
    FlowStore(frames(), cache=FlowCache(tmp_path)).compute([(0, 1)])
    (path,) = (tmp_path / "flow").iterdir()
    good = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "garbage":
        path.write_bytes(b"no zip file at all" * 100)
    elif damage == "flipped":
        path.write_bytes(good[:5000] + bytes([good[5000] ^ 255]) + good[5001:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        np.savez(path, flow=np.array([{"a": 1}], dtype=object), confidence=np.zeros(1))
    else:
        np.savez(path, flow=np.zeros((2, 3, 3, 2), np.int16), confidence=np.zeros((2, 3, 3), np.uint8))
    estimator = CountingDIS()
    FlowStore(frames(), estimator, cache=FlowCache(tmp_path)).compute([(0, 1)])
    assert estimator.calls == 2
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    estimator = CountingDIS()
    FlowStore(frames(), estimator, cache=FlowCache(tmp_path)).compute([(0, 1)])
    assert estimator.calls == 0


def test_the_entries_used_longest_ago_go_when_the_cap_is_passed(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path, max_bytes=10 * 2600)
    keys = [cache_key(str(k)) for k in range(8)]
    for age, key in enumerate(keys):
        cache.put(key, entry(age))
        os.utime(cache._path(key), (1000 + age, 1000 + age))
    assert cache.get(keys[0]) is not None  # used again: now the youngest
    for k in range(8, 12):
        cache.put(cache_key(str(k)), entry(k))
    kept = [key for key in keys if cache._path(key).exists()]
    assert keys[0] in kept
    assert keys[1] not in kept
    assert sum(path.stat().st_size for path in cache.directory.iterdir()) <= cache.max_bytes


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path, max_bytes=1)
    cache.directory.mkdir()
    foreign = [cache.directory / name for name in ("notes.txt", "flow-mine.npz", f"flow-{'z' * 40}.npz")]
    foreign.append(tmp_path / f"flow-{'a' * 40}.npz")
    for path in foreign:
        path.write_bytes(b"mine" * 1000)
        os.utime(path, (0, 0))
    for k in range(3):
        cache.put(cache_key(str(k)), entry())
    assert all(path.read_bytes() == b"mine" * 1000 for path in foreign)


def test_what_a_killed_run_left_is_cleared_but_not_a_file_in_the_making(tmp_path: Path) -> None:
    cache = FlowCache(tmp_path)
    cache.directory.mkdir()
    old, young = (cache.directory / f"flow-{c * 40}.abc.tmp" for c in "ab")
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.put(cache_key("x"), entry())
    assert not old.exists()
    assert young.exists()


def _run(folder: str, seed: int, barrier) -> None:
    cache = FlowCache(folder, max_bytes=40 * 2600)
    barrier.wait()
    rng = np.random.default_rng(seed)
    for _ in range(120):
        k = int(rng.integers(60))
        found = cache.get(cache_key(str(k)))
        if found is None:
            cache.put(cache_key(str(k)), entry(k))
        elif not (found["flow"] == k).all():
            os._exit(3)
    if not cache.writable:
        os._exit(4)


def test_two_runs_at_once_share_one_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    barrier = context.Barrier(2)
    runs = [context.Process(target=_run, args=(str(tmp_path), seed, barrier)) for seed in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(20)
    assert [run.exitcode for run in runs] == [0, 0]
    sizes = [path.stat().st_size for path in (tmp_path / "flow").iterdir()]
    assert sum(sizes) <= 2 * 40 * 2600


def test_a_cache_that_cannot_be_written_warns_once_and_the_flow_is_there(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = FlowStore(frames(), cache=FlowCache(blocked))
    with pytest.warns(UserWarning, match="can't be written") as warned:
        _, confidence = store.sample([(0, 1), (1, 2)], store.good_points(30))
    assert sum("can't be written" in str(warning.message) for warning in warned) == 1
    assert confidence.mean() > 0.5


def test_threads_that_fail_to_write_at_the_same_moment_warn_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both_write = threading.Barrier(2)

    def full(**_: object) -> tuple[int, str]:
        both_write.wait(20)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    cache = FlowCache(tmp_path)
    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("always")
        list(pool.map(lambda k: cache.put(cache_key(str(k)), entry(k)), range(2)))
    assert sum("can't be written" in str(warning.message) for warning in warned) == 1
    assert not cache.writable


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWCAM_CACHE", str(tmp_path / "chosen"))
    assert default_cache_dir() == tmp_path / "chosen"
    monkeypatch.delenv("FLOWCAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "flowcam"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "flowcam"


def test_parts_of_a_key_do_not_run_together() -> None:
    assert cache_key("ab", "c") != cache_key("a", "bc")
    with pytest.raises(ValueError, match="not a cache key"):
        FlowCache("unused").get("../../etc/passwd")
