"""Depth maps that follow the picture: edges that flow has smeared are put right by comparing colours between frames.

Optical flow carries the motion of a near thing some pixels out over what lies behind it, and so do depths from flow.
Each pixel may therefore take over the nearest or farthest depth of its surroundings, or move a little, where the other
frames' pictures then fit better.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.picture_match import (
    MISMATCH,
    NEAREST_Z,
    UNSEEN,
    comparable_frames,
    depths_at,
    free_pixels,
    known_inverse_depths,
    padded,
    picture_features,
    pixel_rays,
    relative_poses,
)
from flowcam_ns.model.scene import ContextScene

LONG_SIDE = 320
"""Long side of refined depth maps, px; those that are larger already keep their size."""
REACHES = (3, 8)
"""px around a pixel from where it may take the nearest or farthest depth."""
NUDGES_PX = (0.4, 0.2)
"""Parallax by which a depth may move in each round, px."""
TAKEOVER_MARGIN, NUDGE_MARGIN = 0.06, 0.02
"""By how much (of a full mismatch) the pictures must fit better for a change."""
BETTER = 0.85
"""Share to which another depth must bring a mismatch down: where nothing fits (moving things), nothing changes."""
SUPPORT = 2
"""Distance in px over which mismatches of like-coloured pixels are averaged."""
LIKENESS = 0.06
"""Difference of brightness at which a pixel of the support no longer counts much."""


@torch.no_grad()
def follow_edges(
    scene: ContextScene,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """Inverse depth and confidence of all frames, refined by the pictures of the usable ones; on the CPU.

    Frames that are not usable keep their values (resized) and lend nothing. `progress` hears the share that is done.
    """
    inverse, confidence, camera = depths_at(scene, LONG_SIDE)
    usable = scene.usable.nonzero()[:, 0].tolist()
    known = known_inverse_depths(inverse, confidence, scene.usable)
    if len(usable) < 2 or len(known) == 0:
        return inverse, confidence
    typical = float(known.median())
    size = camera.height, camera.width
    features = {i: picture_features(scene.images[i].to(device), size) for i in usable}
    rays = pixel_rays(camera).to(device)
    refined = inverse.clone()
    for done, i in enumerate(usable):
        others = comparable_frames(scene, i, typical * camera.fx)
        if others:
            T_other_self = relative_poses(scene, i, others).to(device)
            views = [(T, features[j][0]) for T, j in zip(T_other_self, others, strict=True)]
            refined[i] = _refine(inverse[i].to(device), views, features[i], rays, camera).cpu()
            if scene.masks is not None:
                refined[i] = torch.where(free_pixels(scene.masks, i, size), refined[i], inverse[i])
        if progress is not None:
            progress((done + 1) / len(usable))
    return refined, confidence


def _refine(
    inverse: Float[Tensor, "h w"],
    views: list[tuple[Float[Tensor, "4 4"], Float[Tensor, "3 h w"]]],
    own: tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]],
    rays: Float[Tensor, "h w 3"],
    camera: Camera,
) -> Float[Tensor, "h w"]:
    features, grey = own
    support = _support_weights(grey)
    baseline = max(float(T[:3, 3].norm()) for T, _ in views)
    for nudge in NUDGES_PX:
        step = nudge / (baseline * camera.fx + 1e-12)
        choices, margins = _choices(inverse, step)
        mismatch = _mismatch(choices, views, features, support, rays, camera)
        mismatch[3:] /= BETTER
        best = (mismatch + margins[:, None, None]).argmin(0)
        inverse = choices.gather(0, best[None])[0]
    return F.unfold(padded(inverse[None, None], 1), 3).median(dim=1).values.reshape(inverse.shape)


def _choices(
    inverse: Float[Tensor, "h w"], step: float
) -> tuple[Float[Tensor, "choices h w"], Float[Tensor, "choices"]]:
    """What each pixel may choose from, its own depth first, and how much better a choice must fit to be taken."""
    choices = [inverse, inverse + step, (inverse - step).clamp(min=0)]
    for reach in REACHES:
        image = inverse[None]
        choices.append(F.max_pool2d(image, 2 * reach + 1, 1, reach)[0])
        choices.append(-F.max_pool2d(-image, 2 * reach + 1, 1, reach)[0])
    margins = [0.0] + [NUDGE_MARGIN] * 2 + [TAKEOVER_MARGIN] * (len(choices) - 3)
    return torch.stack(choices), inverse.new_tensor(margins)


def _mismatch(
    choices: Float[Tensor, "choices h w"],
    views: list[tuple[Float[Tensor, "4 4"], Float[Tensor, "3 h w"]]],
    features: Float[Tensor, "3 h w"],
    support: Float[Tensor, "taps h w"],
    rays: Float[Tensor, "h w 3"],
    camera: Camera,
) -> Float[Tensor, "choices h w"]:
    """How badly (0..1) the better half of the views fits each choice: the other half may not see the point."""
    found = []
    size = rays.new_tensor([camera.width, camera.height])
    for T_other_self, other in views:
        points = rays @ T_other_self[:3, :3].T + choices[..., None] * T_other_self[:3, 3]
        z = points[..., 2:]
        grid = camera.project(torch.cat([points[..., :2], z.clamp(min=NEAREST_Z)], dim=-1)) / size * 2 - 1
        seen = F.grid_sample(
            other[None].expand(len(choices), -1, -1, -1), grid, align_corners=False, padding_mode="border"
        )
        difference = ((seen - features).abs().sum(1) / MISMATCH).clamp(max=1)
        outside = (grid.abs().amax(-1) > 1) | (z[..., 0] < NEAREST_Z)
        found.append((_taps(difference.masked_fill(outside, UNSEEN)) * support).sum(1))
    return torch.stack(found).sort(dim=0).values[: (len(found) + 1) // 2].mean(0)


def _support_weights(grey: Float[Tensor, "h w"]) -> Float[Tensor, "taps h w"]:
    weights = torch.exp(-(_taps(grey[None])[0] - grey).abs() / LIKENESS)
    return weights / weights.sum(0)


def _taps(maps: Float[Tensor, "maps h w"]) -> Float[Tensor, "maps taps h w"]:
    """Each pixel's own value and those of eight pixels at a distance of `SUPPORT`."""
    around = F.unfold(padded(maps[:, None], SUPPORT), 3, dilation=SUPPORT)
    return around.reshape(len(maps), -1, *maps.shape[1:])
