"""How bright each frame is: automatic exposure, white balance, and a lens that darkens towards its corners.

A view that is blended from frames of different brightness shows where one takes over from another. So each frame's
colours are first given the brightness that the view has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.blend_guide import NARROWEST_COS


@dataclass(frozen=True)
class Exposures:
    """What frames' colours are multiplied with by their camera, in logarithms."""

    log_gain: Float[Tensor, "frames 3"]
    """Of each frame and colour; around 0."""
    falloff: Float[Tensor, "2"]
    """Coefficients of s and s^2, where s is the squared distance from the middle and 1 in the corners."""

    def to(self, device: torch.device) -> Exposures:
        """The same on another device."""
        return Exposures(self.log_gain.to(device), self.falloff.to(device))

    @property
    def darkens(self) -> bool:
        """Whether the lens does."""
        return bool(self.falloff.any())

    def at(self, square: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """Logarithm of the lens's gain where the squared distance from the middle is so large; no less than in the
        corners.
        """
        square = square.clamp(max=1)
        return square * (self.falloff[0] + self.falloff[1] * square)


@dataclass(frozen=True)
class ViewExposure:
    """What a view's contexts must be multiplied with to be as bright as the view."""

    exposures: Exposures
    contexts: Int[Tensor, "contexts"]
    log_gain: Float[Tensor, "3"]
    """The view's."""
    square: Float[Tensor, "rays"]
    """Squared distance of the view's rays from its middle, relative to the corners of the frames."""
    aspect: float
    """Width of the frames over their height."""

    def evened(
        self, colours: Float[Tensor, "contexts rays samples 3"], grid: Float[Tensor, "contexts rays samples 2"]
    ) -> Float[Tensor, "contexts rays samples 3"]:
        """Colours (0..1) that the contexts show at `grid_sample`'s coordinates, as bright as the view's."""
        gain = (self.log_gain - self.exposures.log_gain[self.contexts])[:, None, None]
        if self.exposures.darkens:
            place = grid.detach().square() @ grid.new_tensor([self.aspect**2, 1.0]) / (self.aspect**2 + 1)
            gain = gain + (self.exposures.at(self.square)[None, :, None] - self.exposures.at(place))[..., None]
        return brightened(colours, gain)


@full_precision
def view_exposures(
    exposures: Exposures,
    pieces: Sequence[Float[Tensor, "rays 3"]],
    axis: Float[Tensor, "3"],
    contexts: Int[Tensor, "contexts"],
    whose: tuple[Int[Tensor, "frames"], Float[Tensor, "frames"]],
    camera: Camera,
) -> list[ViewExposure | None]:
    """What brings `contexts` to the brightness of each bundle of a view's unit rays, were they seen through `camera`
    along `axis`. The view is as bright as the frames of `whose`, by their weights (sum 1).
    """
    frames, weights = whose
    gain = weights @ exposures.log_gain[frames]
    corner = (camera.width**2 + camera.height**2) / (2 * camera.fx) ** 2
    squares = [(1 / (rays @ axis).clamp(NARROWEST_COS, 1).square() - 1) / corner for rays in pieces]
    return [ViewExposure(exposures, contexts, gain, square, camera.width / camera.height) for square in squares]


def brightened(colours: Float[Tensor, "*points 3"], log_gain: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points 3"]:
    """Colours times exp(`log_gain`), but the less the nearer they are to white, which stays white.

    With u = c / (1 - c^4)^(1/4), which has no end, u is multiplied: gains add up, and colours keep their order.
    """
    fourth = colours.square().square().clamp(max=1)  # bicubic sampling may overshoot white
    return log_gain.exp() * colours / (1 + torch.expm1(4 * log_gain) * fourth).sqrt().sqrt()
