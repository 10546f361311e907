"""What the viewer shows beside the render: a status line, cameras that move as poses improve, a start view."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import viser
import viser.transforms as vtf
from jaxtyping import Float, UInt8
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl

TRAJECTORY_COLOUR = (255, 80, 0)
STEP_BACK, STEP_UP = 0.15, 0.1
"""The start view stands these shares of the scene's depth behind and above the first camera, so that cameras show."""
NOWHERE = "-"
DOT = 0.06
"""Size of the dot that says how sure a camera is, in the viewer's units."""
ADAPT_SECONDS, STILL_SECONDS = 5.0, 0.7
COARSEST, FINEST = 96, 512
"""Px of a still view's long side."""
MARKED = 1.4
"""Resolutions closer to each other than this factor are left as they are."""


class FlowCamPanel(ViewerControl):
    """Pushes poses and status to connected viewers; does nothing where there is no viewer.

    Raw viser handles are used on purpose: setting the value of a nerfstudio viewer element from the training loop
    counts as user input and would hold the render at its lowest resolution.
    """

    def __init__(self, max_resolution: int | None = None) -> None:
        self.max_resolution = max_resolution
        self.contexts_of: Callable[[Float[np.ndarray, "4 4"]], list[str]] | None = None
        """Names of the frames that a view from an OpenCV pose is blended from, nearest first."""
        self.speed_of: Callable[[], float | None] = lambda: None
        """Rays per second of the last still view. (nerfstudio's own figure is ruled by the tiny views drawn while
        moving, and counts the wait for a training step.)"""
        self._viewer: Viewer | None = None
        self._markdown: Any = None
        self._contexts: Any = None
        self._jump: Any = None
        self._sureness: Any = None
        self._sure = ""
        self._dots: tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]] | None = None
        self._status = "Waiting for the first training step"
        self._start: tuple[Float[np.ndarray, "4 4"], float, float] | None = None
        self._cameras: dict[str, Float[np.ndarray, "4 4"]] = {}
        self._written: int | None = None
        """The resolution that we set last; None where the user has set another, which is left alone from then on."""

    def _setup(self, viewer: Viewer) -> None:
        """Called by nerfstudio's viewer when it is built."""
        super()._setup(viewer)
        self._viewer = viewer
        gui = viewer.viser_server.gui
        self._markdown = gui.add_markdown(self._status, order=-1)
        self._sureness = gui.add_markdown(self._sure, order=-0.95)
        self._contexts = gui.add_markdown("", order=-0.9)
        self._jump = gui.add_dropdown("Jump to camera", self._choices(), order=-0.8)
        self._jump.on_update(self._go)
        viewer.viser_server.on_client_connect(self._welcome)
        self._draw_dots()
        if self.max_resolution is not None:
            viewer.control_panel._max_res.value = self._written = self.max_resolution
            # A thread, because `ns-viewer`, a pause and the time after training have no steps to do it after.
            threading.Thread(target=self._keep_adapting, name="flowcam-resolution", daemon=True).start()

    def status(self, text: str) -> None:
        """Show one line about what is going on."""
        self._status = text
        if self._markdown is not None:
            self._markdown.content = text

    def set_frames(self, names: list[str], c2w: Float[np.ndarray, "frames 4 4"]) -> None:
        """The cameras that viewers can jump to: every posed frame's name and OpenCV pose."""
        self._cameras = dict(zip(names, c2w, strict=True))
        if self._jump is not None:
            self._jump.options = self._choices()

    def show_uncertainty(self, text: str, centres: Float[np.ndarray, "n 3"], colours: UInt8[np.ndarray, "n 3"]) -> None:
        """Say how sure the cameras are, and mark each with a dot of its colour (world units)."""
        self._sure, self._dots = text, (centres, colours)
        if self._sureness is not None:
            self._sureness.content = text
        self._draw_dots()

    def adapt(self, rays_per_second: float) -> None:
        """Let a still view be as fine as it can be within `STILL_SECONDS`; called now and then, not at every step.

        (nerfstudio itself does so for moving views.) Changes are few and large, because each starts a rendering anew.
        A resolution that the user has chosen stays.
        """
        if self._viewer is None or self._written is None:
            return
        slider = self._viewer.control_panel._max_res
        if slider.value != self._written:
            self._written = None
            return
        wanted = int(np.clip((rays_per_second * STILL_SECONDS) ** 0.5, COARSEST, FINEST)) // 16 * 16
        if not 1 / MARKED < wanted / slider.value < MARKED:
            slider.value = self._written = wanted

    def _keep_adapting(self) -> None:
        while self._written is not None:
            time.sleep(ADAPT_SECONDS)
            speed = self.speed_of()
            # nerfstudio lists a viewer that connects just now before it can draw for it.
            with suppress(KeyError):
                if speed is not None:
                    self.adapt(speed)

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

    def _draw_dots(self) -> None:
        if self._viewer is None or self._dots is None or len(self._dots[0]) == 0:
            return
        centres, colours = self._dots
        self._viewer.viser_server.scene.add_point_cloud(
            "/flowcam/uncertainty",
            points=(centres * VISER_NERFSTUDIO_SCALE_RATIO).astype(np.float32),
            colors=colours,
            point_size=DOT,
            point_shape="circle",
        )

    def _choices(self) -> list[str]:
        return [NOWHERE, *self._cameras]

    def _go(self, event: Any) -> None:
        """Put the viewer that asked for it, or all of them, where a frame was taken."""
        c2w = self._cameras.get(self._jump.value)
        if c2w is None or self._viewer is None:
            return
        client = getattr(event, "client", None)
        clients = [client] if client is not None else list(self._viewer.viser_server.get_clients().values())
        for one in clients:
            with one.atomic():
                one.camera.position = c2w[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO
                one.camera.wxyz = vtf.SO3.from_matrix(c2w[:3, :3]).wxyz
                if self._start is not None:
                    one.camera.fov = self._start[2]

    def _welcome(self, client: viser.ClientHandle) -> None:
        self._place(client)
        client.camera.on_update(self._tell_contexts)

    def _tell_contexts(self, camera: viser.CameraHandle) -> None:
        """Show which frames the view of this camera is blended from."""
        if self.contexts_of is None or self._contexts is None:
            return
        c2w = np.eye(4)
        c2w[:3, :3] = vtf.SO3(camera.wxyz).as_matrix()
        c2w[:3, 3] = np.asarray(camera.position) / VISER_NERFSTUDIO_SCALE_RATIO
        names = self.contexts_of(c2w)
        text = f"Blended from {', '.join(names)}" if names else ""
        if self._contexts.content != text:
            self._contexts.content = text

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
