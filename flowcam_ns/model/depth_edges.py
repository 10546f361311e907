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

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
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
MISMATCH = 0.12
"""Difference of brightness structure that counts as a full mismatch."""
UNSEEN = 0.8
"""Mismatch of a frame that does not show the point."""
PARALLAXES_PX = (4.0, 10.0)
"""Parallax, at the typical depth, from which a frame is worth comparing with; one frame each on either side."""
FARTHEST = 8
"""Frames are looked for so far away in the clip."""
SURROUNDINGS = 6
"""Radius in px of the mean that is taken off the brightness, so that exposure does not count."""
SUPPORT = 2
"""Distance in px over which mismatches of like-coloured pixels are averaged."""
LIKENESS = 0.06
"""Difference of brightness at which a pixel of the support no longer counts much."""
NEAREST_Z = 1e-2
FREE = 0.99
"""Share of a pixel that no mask may touch if its depth shall follow its colours."""


@torch.no_grad()
def follow_edges(
    scene: ContextScene,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[Float[Tensor, "frames h w"], Float[Tensor, "frames h w"]]:
    """Inverse depth and confidence of all frames, refined by the pictures of the usable ones; on the CPU.

    Frames that are not usable keep their values (resized) and lend nothing. `progress` hears the share that is done.
    """
    inverse, confidence, camera = _resized(scene)
    usable = scene.usable.nonzero()[:, 0].tolist()
    known = inverse[scene.usable][confidence[scene.usable] > 0.3]
    if len(usable) < 2 or len(known) == 0:
        return inverse, confidence
    typical = float(known[:: max(1, len(known) // 100_000)].median())
    size = camera.height, camera.width
    features = {i: picture_features(scene.images[i].to(device), size) for i in usable}
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    rays = camera.unproject(torch.stack([x, y], dim=-1) + 0.5).to(device)
    refined = inverse.clone()
    for done, i in enumerate(usable):
        others = comparable_frames(scene, i, typical * camera.fx)
        if others:
            T_other_self = (se3.inverse(scene.c2w[others]) @ scene.c2w[i]).float().to(device)
            views = [(T, features[j][0]) for T, j in zip(T_other_self, others, strict=True)]
            refined[i] = _refine(inverse[i].to(device), views, features[i], rays, camera).cpu()
            if scene.masks is not None:
                seen = F.interpolate(scene.masks[i].float().cpu()[None, None], size=size, mode="area")[0, 0] > FREE
                refined[i] = torch.where(seen, refined[i], inverse[i])
        if progress is not None:
            progress((done + 1) / len(usable))
    return refined, confidence


def comparable_frames(scene: ContextScene, frame: int, px: float) -> list[int]:
    """Usable frames on either side of `frame` whose parallax is large enough; `px` is the parallax of a unit baseline.

    Where no frame of a side lies far enough away, its farthest one counts.
    """
    found: list[int] = []
    for step in (-1, 1):
        near = [frame + step * n for n in range(1, FARTHEST + 1)]
        near = [j for j in near if 0 <= j < len(scene) and bool(scene.usable[j])]
        baselines = [float((scene.c2w[j, :3, 3] - scene.c2w[frame, :3, 3]).norm()) for j in near]
        side: list[int] = []
        for wanted in PARALLAXES_PX:
            far = [j for j, b in zip(near, baselines, strict=True) if b * px >= wanted and j not in side]
            side += far[:1]
        found += side or near[-1:]
    return found


def picture_features(
    image: Float[Tensor, "height width 3"], size: tuple[int, int]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """Brightness less its surroundings' mean with its two gradients, and the brightness itself, at `size` (h, w)."""
    grey = F.interpolate(image.float().mean(-1)[None, None] / 255, size=size, mode="area")
    radius = SURROUNDINGS
    mean = F.avg_pool2d(_padded(grey, radius), 2 * radius + 1, 1)
    around = _padded(grey, 1)
    across = 0.75 * (around[..., 1:-1, 2:] - around[..., 1:-1, :-2])
    down = 0.75 * (around[..., 2:, 1:-1] - around[..., :-2, 1:-1])
    return torch.cat([grey - mean, across, down], dim=1)[0], grey[0, 0]


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
    return F.unfold(_padded(inverse[None, None], 1), 3).median(dim=1).values.reshape(inverse.shape)


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
    around = F.unfold(_padded(maps[:, None], SUPPORT), 3, dilation=SUPPORT)
    return around.reshape(len(maps), -1, *maps.shape[1:])


def _padded(image: Float[Tensor, "batch channels h w"], radius: int) -> Float[Tensor, "batch channels H W"]:
    return F.pad(image, (radius,) * 4, mode="replicate")


def _resized(scene: ContextScene) -> tuple[Tensor, Tensor, Camera]:
    """Depths and confidences at the size at which they are refined, and the lens there."""
    height, width = scene.images.shape[1:3]
    scale = max(LONG_SIDE, *scene.inverse_depth.shape[1:]) / max(height, width)
    w, h = (round(width * min(1.0, scale)), round(height * min(1.0, scale)))
    maps = torch.stack([scene.inverse_depth.float(), scene.confidence.float()], dim=1)
    maps = F.interpolate(maps, size=(h, w), mode="bilinear")
    return maps[:, 0].clone(), maps[:, 1].clone(), scene.camera.scaled_to(w, h)
