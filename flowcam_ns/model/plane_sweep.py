"""How well other frames fit a picture at each of many depths: its pixels seen on planes that move through the scene.

Collins, "A space-sweep approach to true multi-image matching", CVPR 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int16
from torch import Tensor

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.picture_match import MISMATCH, NEAREST_Z, picture_features

FULL_COST = 255
"""Cost of a full mismatch."""
BAND = 100
"""Rows that are compared together, plane by plane: so few that a processor's cache holds them."""
FOREIGN = 10.0
"""A feature that fits nothing: what a mask hides, and what lies outside of a picture."""


@dataclass(frozen=True)
class PinholePicture:
    """What is compared of a frame, as a camera without distortion would have seen it."""

    features: Float[Tensor, "3 h w"]
    """Brightness less its surroundings' mean, and its two gradients."""
    framed: Float[Tensor, "3 h w"]
    """The same with a border that fits nothing."""
    brightness: Float[Tensor, "h w"]
    """0..1."""


class PinholeGrid:
    """The way between a frame's own pixels and those of a camera without distortion but the same focal length."""

    def __init__(self, camera: Camera, device: torch.device | str) -> None:
        """`camera` is the lens at the size of the maps that go to and fro."""
        self.camera = camera
        self.pinhole = Camera(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        y, x = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
        pixels = torch.stack([x, y], dim=-1).to(device) + 0.5
        self.rays: Float[Tensor, "h w 3"] = self.pinhole.unproject(pixels)
        """Rays (z = 1) of the undistorted pixels."""
        size = pixels.new_tensor([camera.width, camera.height])
        self._there = camera.project(self.rays) / size * 2 - 1
        self._back = self.pinhole.project(camera.unproject(pixels)) / size * 2 - 1

    def undistorted(self, maps: Float[Tensor, "maps h w"]) -> Float[Tensor, "maps h w"]:
        """A frame's maps as the camera without distortion sees them."""
        return F.grid_sample(maps[None], self._there[None], align_corners=False, padding_mode="border")[0]

    def distorted(self, maps: Float[Tensor, "maps h w"]) -> Float[Tensor, "maps h w"]:
        """The way back, to the nearest pixel: edges stay edges."""
        back = self._back[None]
        return F.grid_sample(maps[None], back, mode="nearest", align_corners=False, padding_mode="border")[0]

    def picture(
        self, image: Float[Tensor, "height width 3"], mask: Bool[Tensor, "height width"] | None = None
    ) -> PinholePicture:
        """What is compared of a frame (0..255, any size); what `mask` hides (False) will fit nothing."""
        size = self.camera.height, self.camera.width
        features, brightness = picture_features(image, size)
        maps = self.undistorted(torch.cat([features, brightness[None]]))
        features = maps[:3]
        if mask is not None and not bool(mask.all()):
            hidden = F.interpolate((~mask)[None, None].float(), size=size, mode="area")[0].to(maps)
            features = torch.where(self.undistorted(hidden) > 0, FOREIGN, features)
        framed = F.pad(features[:, 1:-1, 1:-1], (1, 1, 1, 1), value=FOREIGN)
        return PinholePicture(features, framed, maps[3])


@full_precision
def matching_costs(
    own: PinholePicture,
    others: Sequence[PinholePicture],
    T_other_self: Float[Tensor, "others 4 4"],
    grid: PinholeGrid,
    inverse_depths: Float[Tensor, "planes"],
) -> Int16[Tensor, "planes h w"]:
    """How badly (0..`FULL_COST`) the better half of the other frames fits each pixel at each inverse depth (1 / z).

    A frame that does not show a point fits it in nothing.
    """
    h, w = own.brightness.shape
    costs = own.features.new_empty(len(inverse_depths), h, w)
    for rows in torch.arange(h).split(BAND):
        band = slice(int(rows[0]), int(rows[-1]) + 1)
        features = own.features[:, band].contiguous()
        paths = [_path_in_other(T, grid, band) for T in T_other_self]
        place = features.new_empty(1, len(rows), w, 2)
        for plane, inverse_depth in enumerate(inverse_depths.tolist()):
            fits = []
            for other, (start, slope) in zip(others, paths, strict=True):
                x, y, z = torch.add(start, slope, alpha=inverse_depth)
                z.clamp_(min=NEAREST_Z)
                torch.div(x, z, out=place[0, ..., 0])
                torch.div(y, z, out=place[0, ..., 1])
                seen = F.grid_sample(other.framed[None], place, align_corners=False, padding_mode="border")[0]
                fits.append(seen.sub_(features).abs_().sum(0).clamp_(max=MISMATCH))
            costs[plane, band] = _better_half(fits)
    blurred = (F.avg_pool2d(plane[None], 3, 1, 1, count_include_pad=False) for plane in costs)
    return torch.cat([plane.mul_(FULL_COST / MISMATCH).round_().to(torch.int16) for plane in blurred])


def _path_in_other(
    T_other_self: Float[Tensor, "4 4"], grid: PinholeGrid, rows: slice
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 1 1"]]:
    """Where another frame sees the pixels of some rows, as (x, y, z) = start + inverse depth * slope; x / z and y / z
    are `grid_sample`'s coordinates.
    """
    lens = grid.pinhole
    to_picture = lens.matrix(torch.float32).to(T_other_self)
    to_picture[:2] *= 2 / to_picture.new_tensor([[lens.width], [lens.height]])
    to_picture[:2] -= to_picture[2]
    start = torch.einsum("ij,hwj->ihw", to_picture @ T_other_self[:3, :3], grid.rays[rows])
    return start.contiguous(), (to_picture @ T_other_self[:3, 3])[:, None, None]


def _better_half(mismatches: Sequence[Float[Tensor, "h w"]]) -> Float[Tensor, "h w"]:
    """Mean of the smaller half, for up to four frames: the other half may not see the point."""
    least = mismatches[0]
    if len(mismatches) < 3:
        return torch.minimum(least, mismatches[-1])
    least, second = torch.minimum(least, mismatches[1]), torch.maximum(least, mismatches[1])
    for mismatch in mismatches[2:]:
        second = torch.minimum(second, torch.maximum(least, mismatch))
        least = torch.minimum(least, mismatch)
    return (least + second).div_(2)
