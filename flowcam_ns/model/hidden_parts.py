"""What masks hide in a frame, filled with what other frames show in its place: views then need not go around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.blend_context import choose_contexts
from flowcam_ns.model.blend_sampling import forbidden_pixels, image_grid
from flowcam_ns.model.scene import TRUSTED, ContextScene

NEAR_SOURCES, FAR_SOURCES = 6, 8
"""Frames that lend a hidden part its colours: the nearest in pose, and so many of the others, evenly spread."""
NEAREST_Z = 1e-2
"""World units; what lies nearer to a camera, or behind it, is not seen by it."""
SAME_SURFACE = 0.06
"""Inverse depths that differ by a smaller share than this are of one surface."""
FILLED_CONFIDENCE = 0.5
"""Confidence of the depths of what was filled from other frames."""
INPAINT_PX = 5.0
"""How far around it the colour of what no frame shows is taken from."""


@dataclass(frozen=True)
class _Scene:
    """What filling one frame reads of all of them."""

    whole: ContextScene
    c2w: Float[Tensor, "frames 4 4"]
    hidden: Bool[Tensor, "frames height width"]
    """Colours that must not be used."""
    hidden_small: Bool[Tensor, "frames h w"]
    """The same at the size of depths."""
    rays: Float[Tensor, "h w 3"]
    typical: float
    """Typical inverse depth."""


def without_hidden(scene: ContextScene) -> ContextScene:
    """The scene with the parts that masks hide filled, their depths too; masks then hide only what was never seen.

    Depths of a hidden part come from the surfaces that other frames see there, colours from the nearest frame that
    sees those surfaces. What none of them shows gets the colours around it. Frames that are not usable lend
    nothing and stay as they are.
    """
    if scene.masks is None or bool(scene.masks.all()):
        return scene
    scene = replace(
        scene,
        inverse_depth=scene.inverse_depth.float().cpu(),
        confidence=scene.confidence.float().cpu(),
        usable=scene.usable.cpu(),
        masks=scene.masks.cpu(),
    )
    assert scene.masks is not None
    hidden = forbidden_pixels(scene.masks)
    h, w = scene.inverse_depth.shape[1:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    known = (scene.confidence >= TRUSTED) & scene.usable[:, None, None]
    parts = _Scene(
        whole=scene,
        c2w=scene.c2w.detach().float().cpu(),
        hidden=hidden,
        hidden_small=torch.stack([_touched(each, (h, w)) for each in hidden]),
        rays=scene.camera.scaled_to(w, h).unproject(torch.stack([x, y], dim=-1) + 0.5).float(),
        typical=float(scene.inverse_depth[known].median()) if bool(known.any()) else 1.0,
    )
    images, masks = scene.images.clone(), scene.masks.clone()
    depths, confidences = scene.inverse_depth.clone(), scene.confidence.clone()
    for frame in (scene.usable & hidden.flatten(1).any(1)).nonzero()[:, 0].tolist():
        sources = _sources(parts, frame)
        depths[frame], unseen = _surfaces_behind(parts, frame, sources)
        images[frame], filled = _colours_behind(parts, frame, sources, depths[frame], unseen)
        masks[frame] |= filled
        found = torch.where(_touched(~masks[frame], (h, w)), 0.0, FILLED_CONFIDENCE)
        confidences[frame] = torch.where(parts.hidden_small[frame], found, confidences[frame])
    return replace(scene, images=images, inverse_depth=depths, confidence=confidences, masks=masks)


def _sources(parts: _Scene, frame: int) -> list[int]:
    """Frames that may show what is hidden in one: the nearest first, then some of those that lie farther away."""
    candidates = parts.whole.usable.clone()
    candidates[frame] = False
    pose, count = parts.c2w[frame], int(candidates.sum())
    if count == 0:
        return []
    order, _ = choose_contexts(pose[:3, 3], pose[:3, 2], parts.c2w, candidates, parts.typical, count)
    near, far = order[:NEAR_SOURCES].tolist(), order[NEAR_SOURCES:]
    spread = np.unique(np.linspace(0, len(far) - 1, FAR_SOURCES).round().astype(int)) if len(far) else []
    return near + [int(far[i]) for i in spread]


def _surfaces_behind(parts: _Scene, frame: int, sources: list[int]) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Inverse depths of a frame, in hidden parts those of the surfaces that its sources see there (the median where
    they disagree); and where none sees any: there the depth is that of what lies around.
    """
    inverse, hidden = parts.whole.inverse_depth[frame].clone(), parts.hidden_small[frame]
    if sources:
        seen = torch.stack([_surfaces_of(parts, source, frame) for source in sources])[:, hidden]
        inverse[hidden] = seen.where(seen > 0, torch.nan).nanmedian(0).values.nan_to_num(0.0)
    else:
        inverse[hidden] = 0.0
    unseen = hidden & (inverse == 0)
    gaps = unseen.numpy().astype(np.uint8)
    whole = cv2.inpaint(inverse.numpy(), gaps, INPAINT_PX, cv2.INPAINT_TELEA) if gaps.any() else inverse.numpy()
    smooth = torch.from_numpy(cv2.medianBlur(np.ascontiguousarray(whole, dtype=np.float32), 5))
    return torch.where(hidden, smooth, inverse).clamp(min=0), unseen


def _surfaces_of(parts: _Scene, source: int, frame: int) -> Float[Tensor, "h w"]:
    """Inverse depths of what one frame shows, seen from another; 0 where it shows nothing."""
    own = parts.whole.inverse_depth[source]
    h, w = own.shape
    good = (parts.whole.confidence[source] >= TRUSTED) & ~parts.hidden_small[source] & (own > 0)
    points = se3.transform(parts.c2w[source], parts.rays[good] / own[good][:, None])
    pixels, z = _projected(points, parts.c2w[frame], parts.whole.camera.scaled_to(w, h))
    column, row = pixels.floor().long().unbind(-1)
    there = (z > NEAREST_Z) & (column >= 0) & (column < w) & (row >= 0) & (row < h)
    place = row[there] * w + column[there]
    seen = torch.zeros(h * w).scatter_reduce_(0, place, 1 / z[there], reduce="amax").reshape(h, w)
    # Surfaces that come nearer leave gaps between their pixels.
    return torch.where(seen > 0, seen, torch.from_numpy(cv2.dilate(seen.numpy(), np.ones((3, 3), np.uint8))))


def _colours_behind(
    parts: _Scene, frame: int, sources: list[int], inverse: Float[Tensor, "h w"], unseen: Bool[Tensor, "h w"]
) -> tuple[UInt8[Tensor, "height width 3"], Bool[Tensor, "height width"]]:
    """A frame whose hidden parts show what others show there, and where they do."""
    camera, image = parts.whole.camera, parts.whole.images[frame].clone()
    row, column = parts.hidden[frame].nonzero(as_tuple=True)
    pixels = torch.stack([column, row], dim=-1) + 0.5
    size = pixels.new_tensor([camera.width, camera.height])
    grid = (pixels / size * 2 - 1)[None, None]
    depth = _read(inverse, grid).clamp(min=1e-3 * parts.typical)
    points = se3.transform(parts.c2w[frame], camera.unproject(pixels).float() / depth[:, None])
    filled = torch.zeros_like(parts.hidden[frame])
    known = _read(unseen.float(), grid) == 0
    left, beyond = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
    for source in sources:
        if len(left) == 0:
            break
        shown, colours = _shown(parts, source, points[left])
        now = left[shown]
        image[row[now], column[now]] = colours
        filled[row[now], column[now]] = True
        left = left[~shown]
    left = torch.cat([left, beyond])
    if len(left) > 0:
        gaps = np.zeros(filled.shape, np.uint8)
        gaps[row[left], column[left]] = 1
        image = torch.from_numpy(cv2.inpaint(image.numpy(), gaps, INPAINT_PX, cv2.INPAINT_TELEA))
    return image, filled


def _shown(
    parts: _Scene, source: int, points: Float[Tensor, "points 3"]
) -> tuple[Bool[Tensor, "points"], UInt8[Tensor, "shown 3"]]:
    """Whether a frame shows points of the world, neither hidden nor behind anything; the colours of those it does."""
    camera = parts.whole.camera
    pixels, z = _projected(points, parts.c2w[source], camera)
    size = pixels.new_tensor([camera.width, camera.height])
    inside = (z > NEAREST_Z) & ((pixels > 0.5) & (pixels < size - 0.5)).all(-1)
    grid = (pixels / size * 2 - 1)[None, None]
    at = torch.where(inside[:, None], pixels, 0.0).long()
    free = ~parts.hidden[source][at[:, 1], at[:, 0]]
    own, found = 1 / z.clamp(min=NEAREST_Z), _read(parts.whole.inverse_depth[source], grid)
    same = (own - found).abs() < SAME_SURFACE * torch.maximum(own, found) + SAME_SURFACE * 0.1 * parts.typical
    shown = inside & free & same
    return shown, _bilinear(parts.whole.images[source], pixels[shown])


def _bilinear(image: UInt8[Tensor, "height width 3"], pixels: Float[Tensor, "points 2"]) -> UInt8[Tensor, "points 3"]:
    """Colours between pixel centres; of few places of a large picture faster than `grid_sample`."""
    low = (pixels - 0.5).floor()
    right, down = (pixels - 0.5 - low).unbind(-1)
    last = torch.tensor([image.shape[1] - 1, image.shape[0] - 1])
    (x, y), (next_x, next_y) = (torch.minimum(low.long() + step, last).unbind(-1) for step in (0, 1))
    top = torch.lerp(image[y, x].float(), image[y, next_x].float(), right[:, None])
    bottom = torch.lerp(image[next_y, x].float(), image[next_y, next_x].float(), right[:, None])
    return torch.lerp(top, bottom, down[:, None]).round().byte()


def _touched(part: Bool[Tensor, "height width"], size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Pixels of a smaller (or larger) picture that a part of a picture reaches into."""
    return F.interpolate(part[None, None].float(), size, mode="area")[0, 0] > 0


def _projected(
    points: Float[Tensor, "points 3"], c2w: Float[Tensor, "4 4"], camera: Camera
) -> tuple[Float[Tensor, "points 2"], Float[Tensor, "points"]]:
    """Pixels of points of the world, and their depths; far outside the picture behind the camera."""
    there = se3.transform(se3.inverse(c2w), points)
    z = there[:, 2]
    ahead = torch.cat([there[:, :2], z[:, None].clamp(min=NEAREST_Z)], dim=-1)
    size = ahead.new_tensor([camera.width, camera.height])
    return (image_grid(ahead[:, :2] / ahead[:, 2:], camera) + 1) * (size / 2), z


def _read(image: Float[Tensor, "h w"], grid: Float[Tensor, "1 1 points 2"]) -> Float[Tensor, "points"]:
    return F.grid_sample(image[None, None], grid, align_corners=False, padding_mode="border")[0, 0, 0]
