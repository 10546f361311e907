"""Frames' exposures, from how bright they show the same surfaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.exposure import Exposures
from flowcam_ns.model.picture_match import NEAREST_Z, relative_poses
from flowcam_ns.model.scene import ContextScene

GAPS = (1, 2, 4)
"""How many usable frames apart those lie that are compared."""
POINTS = 1500
"""Points of a frame that are compared, about."""
LEAST_POINTS = 60
"""Fewer that two frames share tell nothing."""
TRUSTED = 0.3
"""Confidence from which a depth tells what two frames share."""
SAME_DEPTH = 0.03
"""Relative difference of inverse depths of the same surface."""
DARKEST, BRIGHTEST = 0.06, 0.75
"""Colours that tell of exposure: noise and tone curves bend the others."""
PRIOR = 0.05
"""Weight of a gain of 1 beside a pair of frames."""
SURFACE_NOISE = 0.03
"""Relative difference of colours beyond which a point counts less: it shines, or is another surface."""
LEAST_FALLOFF = 0.03
"""Darkening of the corners below which none is assumed."""
ROUNDS = 6
"""Of weighing anew."""
MOST_GAIN = 1.0
"""Largest logarithm of a gain that is believed."""


@dataclass(frozen=True)
class _Shared:
    """What two frames show of the same surfaces."""

    first: int
    second: int
    ratio: Float[Tensor, "points 3"]
    """Logarithm of the first's colour over the second's."""
    radii: Float[Tensor, "points 2"]
    """Difference of the two places' s and s^2 (see `Exposures.falloff`)."""


@torch.no_grad()
@full_precision
def fit_exposures(scene: ContextScene) -> Exposures:
    """Gains of the usable frames, 1 for the others; and how the lens darkens. On the CPU."""

    @lru_cache(maxsize=2 * max(GAPS))
    def picture(frame: int) -> Float[Tensor, "3 h w"]:
        return _small(scene, frame)

    shared = [found for pair in _pairs(scene) if (found := _shared(scene, *pair, picture)) is not None]
    frames = len(scene)
    gain, falloff = torch.zeros(frames, 3), torch.zeros(2)
    if not shared:
        return Exposures(gain, falloff)
    radii = torch.cat([pair.radii for pair in shared])
    for _ in range(ROUNDS):
        gain = _gains(shared, falloff, frames)
        left = torch.cat([(pair.ratio - (gain[pair.first] - gain[pair.second])).mean(-1) for pair in shared])
        weight = 1 / (1 + ((left - radii @ falloff) / SURFACE_NOISE).square())
        weighed = radii * weight[:, None]
        information = weighed.T @ radii + 1e-3 * torch.eye(2)
        falloff = torch.linalg.solve(information, weighed.T @ left)
    # A lens darkens its corners and nothing in between: anything else is the scene's light.
    darkens = falloff.sum() < -LEAST_FALLOFF and falloff[0] < LEAST_FALLOFF and falloff[0] + 2 * falloff[1] < 0
    falloff = falloff if bool(darkens) else torch.zeros(2)
    return Exposures(_gains(shared, falloff, frames).clamp(-MOST_GAIN, MOST_GAIN), falloff)


def _gains(shared: list[_Shared], falloff: Float[Tensor, "2"], frames: int) -> Float[Tensor, "frames 3"]:
    """Least-squares gains under each pair's median ratio."""
    first = torch.tensor([pair.first for pair in shared])
    second = torch.tensor([pair.second for pair in shared])
    ratio = torch.stack([(pair.ratio - (pair.radii @ falloff)[:, None]).median(0).values for pair in shared])
    normal = PRIOR**2 * torch.eye(frames)
    ones = torch.ones(len(shared))
    for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
        normal.index_put_((a, b), sign * ones, accumulate=True)
    right = torch.zeros(frames, 3).index_add_(0, first, ratio).index_add_(0, second, -ratio)
    return torch.linalg.solve(normal, right)


def _pairs(scene: ContextScene) -> list[tuple[int, int]]:
    usable = scene.usable.nonzero()[:, 0].tolist()
    return [(i, usable[k + gap]) for k, i in enumerate(usable) for gap in GAPS if k + gap < len(usable)]


def _shared(scene: ContextScene, i: int, j: int, picture: Callable[[int], Float[Tensor, "3 h w"]]) -> _Shared | None:
    h, w = scene.inverse_depth.shape[1:]
    camera = scene.camera.scaled_to(w, h)
    stride = max(1, round((h * w / POINTS) ** 0.5))
    y, x = torch.meshgrid(torch.arange(0, h, stride), torch.arange(0, w, stride), indexing="ij")
    y, x = y.flatten(), x.flatten()
    pixels = torch.stack([x, y], dim=-1) + 0.5
    inverse = scene.inverse_depth[i, y, x].float().cpu()
    T_other_self = relative_poses(scene, i, [j])[0]
    points = camera.unproject(pixels) @ T_other_self[:3, :3].T + inverse[:, None] * T_other_self[:3, 3]
    z = points[:, 2:].clamp(min=NEAREST_Z)
    there = camera.project(torch.cat([points[:, :2], z], dim=-1))
    size = pixels.new_tensor([w, h])
    expected, found = inverse / z[:, 0], _read(scene.inverse_depth[j][None].float().cpu(), there / size)[:, 0]
    same = (expected - found).abs() < SAME_DEPTH * torch.maximum(expected, found)
    same &= (there > 0).all(-1) & (there < size).all(-1) & (points[:, 2] > NEAREST_Z)
    same &= scene.confidence[i, y, x].cpu() > TRUSTED
    colours = [_read(picture(k), place / size) for k, place in ((i, pixels), (j, there))]
    for colour in colours:
        same &= (colour > DARKEST).all(-1) & (colour < BRIGHTEST).all(-1)
    if int(same.sum()) < LEAST_POINTS:
        return None
    squares = [(2 * place - size).square().sum(-1) / size.square().sum() for place in (pixels, there)]
    radii = torch.stack([squares[0] - squares[1], squares[0].square() - squares[1].square()], dim=-1)
    return _Shared(i, j, (colours[0].log() - colours[1].log())[same], radii[same])


def _small(scene: ContextScene, frame: int) -> Float[Tensor, "3 h w"]:
    """A frame's colours at the size of its depths; where a mask hides them, black, which tells nothing."""
    image = scene.images[frame].cpu().permute(2, 0, 1)[None].float() / 255
    if scene.masks is not None:
        image = image * scene.masks[frame].cpu()
    return F.interpolate(image, size=scene.inverse_depth.shape[1:], mode="area")[0]


def _read(maps: Float[Tensor, "maps h w"], place: Float[Tensor, "points 2"]) -> Float[Tensor, "points maps"]:
    """Maps at places given as fractions of width and height."""
    return F.grid_sample(maps[None], place[None, None] * 2 - 1, align_corners=False, padding_mode="border")[0, :, 0].T
