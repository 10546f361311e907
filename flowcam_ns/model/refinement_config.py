"""How cameras are refined with the field; by itself, so that the command line knows it without loading the solver."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class JointRefinementConfig:
    """How poses and lens are refined with the field."""

    steps: tuple[int, ...] = ()
    """Training steps before which it is done, such as 200; none leaves the cameras as flow gave them."""
    weight: float = 1.0
    """How much the pictures' errors count; at 1 their whole cost counts as much as that of all flow."""
    lens: bool = False
    """Refine the lens too. Pictures can tell it worse than flow does."""
    stride: int = 4
    """Every such pixel is compared, in both directions, of an image with a long side of about 512 px."""
    most_frames: int = 64
    """Training frames that are compared in one step."""
