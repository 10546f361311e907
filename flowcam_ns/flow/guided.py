"""Flow between distant frames, once it is roughly known where everything should be, sampled at points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32

from flowcam_ns.flow.gather import BilinearGather
from flowcam_ns.flow.pair import STEPS_PER_PX, FlowPair
from flowcam_ns.flow.store import FlowStore, Pair, Progress
from flowcam_ns.flow.threads import one_library_thread
from flowcam_ns.flow.warped import guided_flow

Prediction = Callable[[int, int], "Float32[np.ndarray, 'h w 2']"]
"""Gives the expected flow (px of the flow image, on its grid) from one frame to another; NaN where there is none."""


def sample_guided(
    store: FlowStore,
    pairs: Sequence[Pair],
    points: Float32[np.ndarray, "frames points 2"],
    predict: Prediction,
    progress: Progress | None = None,
) -> tuple[Float32[np.ndarray, "pairs points 2"], Float32[np.ndarray, "pairs points"]]:
    """Where the points of frame i lie in frame j, like `FlowStore.sample`, with the search led by a prediction.

    The reverse of each pair is estimated as well, for the confidence; where it is among `pairs` it costs nothing more.
    Nothing is kept: the flow hangs on the prediction.
    """
    targets = np.empty((len(pairs), points.shape[1], 2), np.float32)
    confidence = np.empty(targets.shape[:2], np.float32)
    rows: dict[Pair, list[int]] = {}
    for row, (i, j) in enumerate(pairs):
        rows.setdefault((min(i, j), max(i, j)), []).append(row)

    def work(key: Pair) -> FlowPair:
        i, j = key
        first, second = store.flow_image(i), store.flow_image(j)
        there = guided_flow(store.estimator, first, second, predict(i, j))
        return store.weighed(FlowPair.from_dense(there, guided_flow(store.estimator, second, first, predict(j, i))))

    with one_library_thread(), ThreadPoolExecutor(store.workers, thread_name_prefix="guided") as pool:
        for done, (key, pair) in enumerate(zip(rows, pool.map(work, rows), strict=True), start=1):
            for row in rows[key]:
                source, target = pairs[row]
                side = int(source > target)
                gather = BilinearGather(points[source][None] * (store.scale / 2), *pair.confidence.shape[1:])
                gather.read(0, pair.flow[side], pair.confidence[side])
                flow, sure = gather.finish()
                targets[row] = points[source] + flow[0] / (store.scale * np.float32(STEPS_PER_PX))
                usable = store.usable(source, points[source]) & store.usable(target, targets[row])
                confidence[row] = sure[0] / np.float32(255) * usable
            if progress is not None:
                progress(done, len(rows))
    return targets, confidence
