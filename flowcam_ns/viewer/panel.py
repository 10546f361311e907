"""What the viewer shows beside the render: a status line, cameras that move as poses improve, a start view."""

from __future__ import annotations

from typing import Any

import numpy as np
import viser
import viser.transforms as vtf
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl

TRAJECTORY_COLOUR = (255, 80, 0)
STEP_BACK, STEP_UP = 0.15, 0.1
"""The start view stands these shares of the scene's depth behind and above the first camera, so that cameras show."""


class FlowCamPanel(ViewerControl):
    """Pushes poses and status to connected viewers; does nothing where there is no viewer.

    Raw viser handles are used on purpose: setting the value of a nerfstudio viewer element from the training loop
    counts as user input and would hold the render at its lowest resolution.
    """

    def __init__(self, max_resolution: int | None = None) -> None:
        self.max_resolution = max_resolution
        self._viewer: Viewer | None = None
        self._markdown: Any = None
        self._status = "Waiting for the first training step"
        self._start: tuple[Float[np.ndarray, "4 4"], float, float] | None = None

    def _setup(self, viewer: Viewer) -> None:
        """Called by nerfstudio's viewer when it is built."""
        super()._setup(viewer)
        self._viewer = viewer
        self._markdown = viewer.viser_server.gui.add_markdown(self._status, order=-1)
        viewer.viser_server.on_client_connect(self._place)
        if self.max_resolution is not None:
            viewer.control_panel._max_res.value = self.max_resolution

    def status(self, text: str) -> None:
        """Show one line about what is going on."""
        self._status = text
        if self._markdown is not None:
            self._markdown.content = text

    def push_cameras(
        self, c2w: Float[np.ndarray, "frames 4 4"], shown: dict[int, int], posed: np.ndarray | None = None
    ) -> None:
        """Move the frusta and redraw the trajectory.

        Args:
            c2w: OpenCV camera-to-world of all frames.
            shown: frame index of each training image, by its position in the training set.
            posed: which frames have a pose; the frusta of the others are hidden. All, where missing.
        """
        viewer = self._viewer
        if viewer is None or not hasattr(viewer, "camera_handles"):
            return
        posed = np.ones(len(c2w), dtype=bool) if posed is None else posed
        with viewer.viser_server.atomic():
            for position, handle in viewer.camera_handles.items():
                pose = c2w[shown[position]]
                handle.position = pose[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO
                handle.wxyz = vtf.SO3.from_matrix(pose[:3, :3]).wxyz
                handle.visible = bool(posed[shown[position]])
                # nerfstudio redraws frusta from this copy, which is in OpenGL axes.
                viewer.original_c2w[position][:] = (pose * [1, -1, -1, 1])[:3]
            centres = c2w[posed, :3, 3] * VISER_NERFSTUDIO_SCALE_RATIO
            if len(centres) >= 2:
                viewer.viser_server.scene.add_spline_catmull_rom(
                    "/flowcam/trajectory", positions=centres, color=TRAJECTORY_COLOUR, line_width=3.0
                )

    def set_start_view(self, c2w: Float[np.ndarray, "4 4"], depth: float, vertical_fov: float) -> None:
        """Where viewers look from when they connect; those connected now are moved there once.

        Args:
            c2w: OpenCV pose of the camera to start behind.
            depth: typical distance of the scene from it, world units.
            vertical_fov: in radians.
        """
        first = self._start is None
        self._start = (c2w, depth, vertical_fov)
        if self._viewer is not None and first:
            for client in self._viewer.viser_server.get_clients().values():
                self._place(client)

    def _place(self, client: viser.ClientHandle) -> None:
        if self._start is None:
            return
        c2w, depth, fov = self._start
        forward = c2w[:3, 2]
        with client.atomic():
            client.camera.up_direction = (0.0, 0.0, 1.0)
            position = c2w[:3, 3] - STEP_BACK * depth * forward + [0, 0, STEP_UP * depth]
            client.camera.position = position * VISER_NERFSTUDIO_SCALE_RATIO
            client.camera.look_at = (c2w[:3, 3] + depth * forward) * VISER_NERFSTUDIO_SCALE_RATIO
            client.camera.fov = fov
