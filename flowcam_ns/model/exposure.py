"""How bright each frame is: automatic exposure, white balance, and a lens that darkens towards its corners.

A view that is blended from frames of different brightness shows where one takes over from another. So each frame's
colours are first given the brightness that the view has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


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


def brightened(colours: Float[Tensor, "*points 3"], log_gain: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points 3"]:
    """Colours times exp(`log_gain`), but the less the nearer they are to white, which stays white.

    With u = c / (1 - c^4)^(1/4), which has no end, u is multiplied: gains add up, and colours keep their order.
    """
    fourth = colours.square().square().clamp(max=1)  # bicubic sampling may overshoot white
    return log_gain.exp() * colours / (1 + torch.expm1(4 * log_gain) * fourth).sqrt().sqrt()
