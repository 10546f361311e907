"""A view to be rendered, and what whatever renders it must be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class View:
    """What all rays of one camera share."""

    pose: Float[Tensor, "4 4"]
    """OpenCV camera-to-world."""
    frame: int | None = None
    """Set where the view is one of the clip's frames: that frame may not lend itself anything."""


class ViewRenderer(Protocol):
    """Renders rays of a camera from the frames of the clip."""

    @property
    def ready(self) -> bool:
        """Whether all is known that views are made from."""
        ...

    def plan(self, directions: Float[Tensor, "*rays 3"], view: View, training: bool) -> Any:
        """What all rays (unit, world axes) of a view share, in whatever pieces it is rendered; with gradients where
        they train.
        """
        ...

    def render(
        self, origins: Float[Tensor, "*rays 3"], directions: Float[Tensor, "*rays 3"], view: View, plan: Any
    ) -> dict[str, Float[Tensor, "*rays channels"]]:
        """rgb, depth along the ray in world units, accumulation, confidence; without gradients also contexts."""
        ...

    def contexts_of(self, view: View) -> tuple[Int[Tensor, "contexts"], Float[Tensor, "contexts"]]:
        """The frames that a view is made from, and their shares before visibility is known (sum 1)."""
        ...

    def losses(self, rgb: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> dict[str, Tensor]:
        """Weighted losses of a window of a frame; their sum is what to minimise."""
        ...
