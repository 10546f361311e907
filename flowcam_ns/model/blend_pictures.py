"""Colours of a view's contexts, averaged over what a pixel of the view covers of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.model.blend_guide import NARROWEST_COS, view_rotation

COARSEST = 2.3
"""px of a context that a pixel of the view may cover; where it covers more, contexts are halved first."""
WIDENED = 0.75
"""Share of the filter's widening that is made use of, because bicubic sampling averages a little by itself: with all of
it, untrained views of five recorded sequences have .03 dB more, but an LPIPS that is 3 % worse."""
NARROWEST = 1.01
"""px; narrower filters would only blur what rounding made of 1."""
REACH = 3
"""px around a place that its colour comes from: two for the bicubic kernel, one for the filter."""


class ContextPictures:
    """The pictures of a view's contexts; `sample` reads them."""

    def __init__(
        self,
        frames: UInt8[Tensor, "frames 3 height width"],
        chosen: Int[Tensor, "contexts"],
        spacing: float,
        in_pieces: bool,
    ) -> None:
        """`spacing` is how many px of a context the view's pixels lie apart, `in_pieces` whether many bundles of rays
        will be sampled: everything is then filtered at once, otherwise only what a bundle shows.
        """
        self._frames = [frames[i] for i in chosen.tolist()]
        halvings = math.ceil(math.log2(spacing / COARSEST)) if spacing > COARSEST else 0
        self._width = 1 + WIDENED * (max(spacing / 2**halvings, 1.0) - 1)
        self._whole: Float[Tensor, "contexts 3 height width"] | None = None
        if in_pieces or halvings > 0:
            whole = torch.stack(self._frames)
            for _ in range(halvings):
                whole = halved(whole)
            self._whole = averaged(_unit(whole), self._width)

    def sample(self, grid: Float[Tensor, "contexts rays samples 2"]) -> Float[Tensor, "contexts rays samples 3"]:
        """Colours in 0..1 at `grid_sample`'s coordinates."""
        images = self._whole
        if images is None:
            images, grid = self._window(grid)
        colours = F.grid_sample(images, grid, mode="bicubic", align_corners=False, padding_mode="border")
        return colours.permute(0, 2, 3, 1)

    @torch.no_grad()
    def _window(
        self, grid: Float[Tensor, "contexts rays samples 2"]
    ) -> tuple[Float[Tensor, "contexts 3 h w"], Float[Tensor, "contexts rays samples 2"]]:
        """The part of each context that the grid shows, filtered, and the grid in it."""
        height, width = self._frames[0].shape[1:]
        size = grid.new_tensor([width, height])
        pixels = (grid + 1) * (size / 2)
        places = torch.minimum((pixels - 0.5).clamp(min=0), size - 1).flatten(1, 2)
        low, high = places.amin(1).floor() - REACH, places.amax(1).floor() + REACH + 1
        extent = torch.minimum((high - low).amax(0), size)
        low = torch.minimum(low.clamp(min=0), size - extent)
        w, h = (int(n) for n in extent.tolist())
        corners = [(int(x), int(y)) for x, y in low.tolist()]
        parts = [frame[:, y : y + h, x : x + w] for frame, (x, y) in zip(self._frames, corners, strict=True)]
        return averaged(_unit(torch.stack(parts)), self._width), (pixels - low[:, None, None]) * (2 / extent) - 1


def pixel_spacing(directions: Float[Tensor, "height width 3"], forward: Float[Tensor, "3"], camera: Camera) -> float:
    """How many px of `camera` neighbouring rays of a view that looks along `forward` lie apart, were it in its place.

    Told by the middle of the rays, and the same for any part of a picture that the camera itself takes: through its
    lens, pixels lie equally far apart. 0 for views of one column.
    """
    height, width = directions.shape[:2]
    if width < 2:
        return 0.0
    pair = directions[height // 2, width // 2 - 1 : width // 2 + 1] @ view_rotation(forward).T
    if float(pair[:, 2].min()) < NARROWEST_COS:
        return float((pair[1] - pair[0]).norm()) * camera.fx
    pixels = camera.project(pair)
    return float((pixels[1] - pixels[0]).norm())


def halved(images: Tensor) -> Float[Tensor, "images 3 h w"]:
    """Images at half their size, by area; values keep their range."""
    height, width = images.shape[2:]
    if height % 2 or width % 2:
        return F.interpolate(images.float(), size=(max(1, height // 2), max(1, width // 2)), mode="area")
    rows = images[:, :, 0::2].float() + images[:, :, 1::2]
    return (rows[..., 0::2] + rows[..., 1::2]) / 4


def averaged(images: Float[Tensor, "images 3 height width"], width: float) -> Float[Tensor, "images 3 height width"]:
    """Means over squares of `width` px, 1 to 3, around each pixel."""
    if width < NARROWEST:
        return images
    side = (width - 1) / 2 / width
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., 1:-1] / width).add_(padded[..., :-2], alpha=side).add_(padded[..., 2:], alpha=side)
    return (rows[..., 1:-1, :] / width).add_(rows[..., :-2, :], alpha=side).add_(rows[..., 2:, :], alpha=side)


def _unit(images: Tensor) -> Float[Tensor, "images 3 height width"]:
    """From 0..255 to 0..1, each colour by itself in memory, which filters are fastest with."""
    return images.to(torch.float32, memory_format=torch.contiguous_format) / 255
