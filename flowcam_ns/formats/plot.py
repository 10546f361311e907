"""A picture of a trajectory: from above, from the side, and in perspective with the cameras' frusta."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from flowcam_ns.formats.atomic import atomic_file
from flowcam_ns.formats.point_cloud import PointCloud
from flowcam_ns.geometry.camera import Camera

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 4000
MAX_FRUSTA = 24
TIME_COLOURS = "plasma"
TRUTH_STYLE = {"color": "#1b9e77", "linewidth": 1.6, "linestyle": (0, (4, 2))}
INK = "#333333"


@dataclass(frozen=True)
class TrajectoryPlot:
    """What is drawn; the world is z-up and everything is in its units."""

    c2w: Float[np.ndarray, "frames 4 4"]
    """OpenCV camera-to-world of the posed frames, in temporal order."""
    camera: Camera
    title: str
    truth_c2w: Float[np.ndarray, "truth 4 4"] | None = None
    """True poses in the same world."""
    cloud: PointCloud | None = None


def write_trajectory_plot(path: Path, plot: TrajectoryPlot) -> None:
    """Write a PNG with three views; colours run from the first frame (dark) to the last (bright)."""
    # The object interface draws without touching the backend that the process may use for its own windows.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.2), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plot.title, fontsize=12, color=INK)
    cloud, colours = _thinned_cloud(plot)
    across = _principal_horizontal(plot.c2w[:, :3, 3])
    views = ((0, "From above", np.eye(3)[:2], ("x", "y")), (1, "From the side", across, ("along the motion", "z (up)")))
    for column, title, axes2d, labels in views:
        _draw_flat(figure.add_subplot(1, 3, column + 1), plot, axes2d, (cloud, colours), title, labels)
    perspective: Any = figure.add_subplot(1, 3, 3, projection="3d")
    _draw_perspective(perspective, plot, (cloud, colours))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_flat(
    ax: Axes,
    plot: TrajectoryPlot,
    axes2d: Float[np.ndarray, "2 3"],
    cloud: tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, "points 3"]],
    title: str,
    labels: tuple[str, str],
) -> None:
    """One orthographic view: points as a backdrop, the path, and where each camera looks."""
    from matplotlib.collections import LineCollection

    centres = plot.c2w[:, :3, 3] @ axes2d.T
    ax.scatter(*(cloud[0] @ axes2d.T).T, c=cloud[1], s=2.0, linewidths=0, alpha=0.5, rasterized=True)
    edges, colours = _frusta(plot)
    ax.add_collection(LineCollection([*(edges @ axes2d.T)], colors=colours, linewidths=0.8, zorder=4))
    ax.plot(*centres.T, color=INK, linewidth=1.0, alpha=0.8, zorder=5)
    ax.scatter(*centres.T, c=np.arange(len(centres)), cmap=TIME_COLOURS, s=7, zorder=6, linewidths=0)
    if plot.truth_c2w is not None:
        ax.plot(*(plot.truth_c2w[:, :3, 3] @ axes2d.T).T, label="ground truth", zorder=7, **TRUTH_STYLE)
    ax.scatter(*centres[0], marker="o", s=70, facecolors="none", edgecolors=INK, label="first frame", zorder=8)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_title(title, fontsize=10, color=INK)
    ax.set_xlabel(labels[0], fontsize=9)
    ax.set_ylabel(labels[1], fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.legend(fontsize=8, loc="best", frameon=True, framealpha=0.8)


def _draw_perspective(
    ax: Any, plot: TrajectoryPlot, cloud: tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, "points 3"]]
) -> None:
    """Frusta and points in perspective, with equal axes."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    ax.scatter(*cloud[0].T, c=cloud[1], s=2.0, linewidths=0, alpha=0.5, depthshade=False)
    centres = plot.c2w[:, :3, 3]
    ax.plot(*centres.T, color=INK, linewidth=1.0, alpha=0.8)
    edges, colours = _frusta(plot)
    ax.add_collection3d(Line3DCollection([*edges], colors=colours, linewidths=0.8))
    if plot.truth_c2w is not None:
        ax.plot(*plot.truth_c2w[:, :3, 3].T, **TRUTH_STYLE)
    corners = np.concatenate([centres, cloud[0], edges.reshape(-1, 3)])
    low, high = corners.min(0), corners.max(0)
    middle, half = (low + high) / 2, max((high - low).max() / 2, 1e-6)
    for axis, set_limits in enumerate((ax.set_xlim, ax.set_ylim, ax.set_zlim)):
        set_limits(middle[axis] - half, middle[axis] + half)
    ax.set_box_aspect((1, 1, 1), zoom=1.25)
    ax.view_init(elev=28, azim=-60)
    ax.set_title("Cameras", fontsize=10, color=INK)
    for pane in (ax.xaxis, ax.yaxis, ax.zaxis):
        pane.set_pane_color((0.97, 0.97, 0.97, 1.0))
        pane.set_ticklabels([])


def _frusta(plot: TrajectoryPlot) -> tuple[Float[np.ndarray, "edges 2 3"], Float[np.ndarray, "edges 4"]]:
    """The edges of the pyramids of evenly chosen cameras, eight each, and their colours by time."""
    from matplotlib import colormaps

    shown = _evenly(len(plot.c2w), MAX_FRUSTA)
    camera, c2w = plot.camera, plot.c2w[shown]
    x = (np.array([0, camera.width, camera.width, 0]) - camera.cx) / camera.fx
    y = (np.array([0, 0, camera.height, camera.height]) - camera.cy) / camera.fy
    corners = _frustum_depth(plot) * np.stack([x, y, np.ones(4)], axis=1)
    corners = corners @ c2w[:, :3, :3].transpose(0, 2, 1) + c2w[:, None, :3, 3]
    apexes = np.broadcast_to(c2w[:, None, :3, 3], corners.shape)
    sides = np.stack([apexes, corners], axis=2)
    frames = np.stack([corners, np.roll(corners, -1, axis=1)], axis=2)
    colours = colormaps[TIME_COLOURS](shown / max(len(plot.c2w) - 1, 1))
    return np.concatenate([sides, frames], axis=1).reshape(-1, 2, 3), np.repeat(colours, 8, axis=0)


def _frustum_depth(plot: TrajectoryPlot) -> float:
    centres = plot.c2w[:, :3, 3]
    extent = float(np.ptp(centres, axis=0).max())
    return 0.08 * extent if extent > 0 else 0.1


def _thinned_cloud(plot: TrajectoryPlot) -> tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, "points 3"]]:
    """The points worth drawing, and their colours in 0..1; stray far ones would shrink the cameras to a dot."""
    if plot.cloud is None or len(plot.cloud) == 0:
        return np.empty((0, 3)), np.empty((0, 3))
    centres = plot.c2w[:, :3, 3]
    distance = np.linalg.norm(plot.cloud.xyz - np.median(centres, axis=0), axis=1)
    extent = np.linalg.norm(np.ptp(centres, axis=0))
    reach = min(np.quantile(distance, 0.95), max(1.5 * extent, np.quantile(distance, 0.4)))
    near = np.flatnonzero(distance <= reach)
    shown = near[_evenly(len(near), MAX_POINTS)]
    return plot.cloud.xyz[shown], plot.cloud.rgb[shown] / 255.0


def _principal_horizontal(centres: Float[np.ndarray, "frames 3"]) -> Float[np.ndarray, "2 3"]:
    """Axes of the side view: the horizontal direction in which the cameras move most, and up."""
    flat = centres[:, :2] - centres[:, :2].mean(0)
    along = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    return np.array([[along[0], along[1], 0.0], [0.0, 0.0, 1.0]])


def _evenly(count: int, most: int) -> np.ndarray:
    """At most `most` indices spread over 0..count-1, both ends included."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(int))
