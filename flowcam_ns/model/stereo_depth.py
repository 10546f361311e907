"""Depth maps from the pictures themselves, once poses and rough depths are known: dense stereo over several frames.

Flow is smooth and knows no silhouettes: posts dissolve in it, and what lies behind a near thing's edge moves with it.
Here each pixel of a frame is compared with other frames at every depth there may be, the depths of like-coloured
neighbours are kept alike, and what no other frame's new depths confirm stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.picture_match import (
    FARTHEST,
    NEAREST_Z,
    comparable_frames,
    depths_at,
    free_pixels,
    known_inverse_depths,
    pixel_rays,
    relative_poses,
)
from flowcam_ns.model.plane_sweep import PinholeGrid, PinholePicture, matching_costs
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.model.semi_global import best_labels, path_costs

LONG_SIDE = 400
"""Long side of depth maps that follow from pictures, px."""
NEARER = 1.25
"""How much nearer than the nearest known depths (but for one in two hundred) a surface may lie."""
SPACING_PX = 1.0
"""Parallax between depths that are tried, px."""
LEAST_PLANES, MOST_PLANES = 25, 129
KNOWN_COST = 16
"""Cost of leaving a depth that is sure already; a full mismatch costs 255."""
SAME = 1.5
"""Depths so many planes apart are the same surface: the finer one, that is known already, stays."""
LEAST_PARALLAX_PX = 2.0
"""Parallax at the nearest depth below which pictures tell nothing that flow does not."""
CONFIRMED_PX, CONFIRMED_RELATIVE = 1.0, 0.05
"""How far two frames' depths of a point may differ, as parallax and relative to each other."""
CONFIRMED = 0.6
"""Least confidence of a new depth that two other frames confirm."""
CHANGED = 0.03
"""Relative difference from which a depth counts as new."""
WORKERS = 2
"""Frames that are worked on at once."""


@torch.no_grad()
def depths_from_pictures(
    scene: ContextScene,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """Inverse depth and confidence of all frames after the usable ones have been compared; on the CPU.

    Frames that are not usable keep their values (resized) and lend nothing; what masks hide keeps its depth. `progress`
    hears the share that is done.
    """
    known, confidence, camera = depths_at(scene, LONG_SIDE)
    surfaces = known_inverse_depths(known, confidence, scene.usable)
    usable = scene.usable.nonzero()[:, 0].tolist()
    if len(usable) < 2 or len(surfaces) == 0:
        return known, confidence
    others = {i: comparable_frames(scene, i, float(surfaces.median()) * camera.fx) for i in usable}
    nearest = NEARER * float(surfaces.quantile(0.995))
    grid = PinholeGrid(camera, device)

    @lru_cache(maxsize=2 * FARTHEST + 2 * WORKERS)
    def picture(frame: int) -> PinholePicture:
        mask = None if scene.masks is None else scene.masks[frame].to(device)
        return grid.picture(scene.images[frame].to(device), mask)

    def depths(i: int) -> Float[Tensor, "h w"]:
        T_other_self = relative_poses(scene, i, others[i]).to(device)
        parallax = nearest * camera.fx * float(T_other_self[:, :3, 3].norm(dim=-1).max())
        if parallax < LEAST_PARALLAX_PX:
            return known[i]
        planes = min(max(int(parallax / SPACING_PX) + 2, LEAST_PLANES), MOST_PLANES)
        inverse_depths = torch.linspace(0, nearest, planes, device=device)
        costs = matching_costs(picture(i), [picture(j) for j in others[i]], T_other_self, grid, inverse_depths)
        return _smoothest(costs, picture(i).brightness, grid, known[i], confidence[i], nearest).cpu()

    found = known.clone()
    with closing(_in_threads(depths, usable)) as maps:
        for done, (i, inverse) in enumerate(zip(usable, maps, strict=True), start=1):
            found[i] = inverse
            if progress is not None:
                progress(done / len(usable))
    return _confirmed(scene, found, known, confidence, others, camera)


def _in_threads(
    work: Callable[[int], Float[Tensor, "h w"]], frames: Sequence[int]
) -> Generator[Float[Tensor, "h w"], None, None]:
    """What `work` tells of each frame, in their order. Each thread works on a frame of its own and by itself: sharing
    the many small steps of one frame between processors takes longer than the steps.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(WORKERS, "stereo", torch.set_num_threads, (1,))
    try:
        yield from pool.map(work, frames)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _smoothest(
    costs: Tensor,
    brightness: Float[Tensor, "h w"],
    grid: PinholeGrid,
    known: Float[Tensor, "h w"],
    confidence: Float[Tensor, "h w"],
    nearest: float,
) -> Float[Tensor, "h w"]:
    """The cheapest inverse depths between 0 and `nearest`, seen by the frame's own pixels."""
    step = nearest / (len(costs) - 1)
    before, sure = grid.undistorted(torch.stack([known, confidence]).to(costs.device))
    price = KNOWN_COST * sure.square()
    for label, cost in enumerate(costs):
        away = (before / step - label).abs_().div_(2 * SAME).clamp_(max=1)
        cost += away.mul_(price).round_().to(cost.dtype)
    label = best_labels(path_costs(costs, brightness))
    kept = (label - before / step).abs() < SAME
    return grid.distorted(torch.where(kept, before, label * step)[None])[0]


@full_precision
def _confirmed(
    scene: ContextScene,
    found: Float[Tensor, "frames h w"],
    known: Float[Tensor, "frames h w"],
    confidence: Float[Tensor, "frames h w"],
    others: dict[int, list[int]],
    camera: Camera,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """New depths where another frame has the same, the known ones elsewhere; and how far they can be trusted. Written
    over what was known: a long video's maps are large.
    """
    rays = pixel_rays(camera)
    for i, compared in others.items():
        count = _agreeing(found[i], found[compared], relative_poses(scene, i, compared), rays, camera)
        taken = count > 0
        if scene.masks is not None:
            taken &= free_pixels(scene.masks, i, (camera.height, camera.width))
        new = taken & (count > 1) & ((found[i] - known[i]).abs() > CHANGED * known[i])
        confidence[i] = torch.where(new, confidence[i].clamp(min=CONFIRMED), confidence[i])
        known[i] = torch.where(taken, found[i], known[i])
    return known, confidence


def _agreeing(
    inverse: Float[Tensor, "h w"],
    theirs: Float[Tensor, "others h w"],
    T_other_self: Float[Tensor, "others 4 4"],
    rays: Float[Tensor, "h w 3"],
    camera: Camera,
) -> Int[Tensor, "h w"]:
    """How many frames have the same depth for what each pixel shows."""
    points = torch.einsum("hwj,nij->nhwi", rays, T_other_self[:, :3, :3])
    points = points + inverse[..., None] * T_other_self[:, None, None, :3, 3]
    z = points[..., 2:].clamp(min=NEAREST_Z)
    place = camera.project(torch.cat([points[..., :2], z], dim=-1))
    place = place / place.new_tensor([camera.width, camera.height]) * 2 - 1
    there = F.grid_sample(theirs[:, None], place, mode="nearest", align_corners=False)[:, 0]
    expected = inverse / z[..., 0]
    difference = (expected - there).abs()
    parallax = difference * (T_other_self[:, :3, 3].norm(dim=-1) * camera.fx)[:, None, None]
    same = (parallax < CONFIRMED_PX) & (difference < CONFIRMED_RELATIVE * torch.maximum(expected, there))
    return (same & (place.abs().amax(-1) < 1) & (points[..., 2] > NEAREST_Z)).sum(0)
