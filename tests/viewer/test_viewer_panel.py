"""What the panel tells the viewer: poses, trajectory, status and where to look from."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowcam_ns.viewer import panel as panel_module
from flowcam_ns.viewer.panel import FlowCamPanel
from flowcam_ns.viewer.uncertainty import colours, describe

RATIO = 10.0


class Dropdown:
    """Stands for a viser dropdown."""

    def __init__(self, label: str, options: list[str], order: float) -> None:
        self.options, self.value, self.callback = options, options[0], None

    def on_update(self, callback: Any) -> None:
        self.callback = callback


class Recorder:
    """Stands for a viser server or client: remembers what was added."""

    def __init__(self) -> None:
        self.trajectory: np.ndarray | None = None
        self.on_connect: Any = None
        self.scene = SimpleNamespace(add_spline_catmull_rom=self._spline, add_point_cloud=self._points)
        self.dots: dict[str, Any] = {}
        self.gui = SimpleNamespace(
            add_markdown=lambda text, order: SimpleNamespace(content=text), add_dropdown=Dropdown
        )
        self.clients: dict[int, Any] = {}

    def atomic(self) -> Any:
        return nullcontext()

    def on_client_connect(self, callback: Any) -> None:
        self.on_connect = callback

    def get_clients(self) -> dict[int, Any]:
        return self.clients

    def _points(self, name: str, points: np.ndarray, colors: np.ndarray, **style: object) -> None:
        self.dots = {"name": name, "points": points, "colors": colors}

    def _spline(self, name: str, positions: np.ndarray, **style: object) -> None:
        self.trajectory = positions


def fake_viewer(handles: int) -> SimpleNamespace:
    return SimpleNamespace(
        viser_server=Recorder(),
        camera_handles={i: SimpleNamespace(position=None, wxyz=None, visible=True) for i in range(handles)},
        original_c2w={i: np.eye(4)[:3] for i in range(handles)},
        control_panel=SimpleNamespace(_max_res=SimpleNamespace(value=512)),
    )


def poses(count: int) -> np.ndarray:
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, 3] = np.arange(count)[:, None] * [1.0, 2.0, 3.0]
    return c2w


def client() -> SimpleNamespace:
    camera = SimpleNamespace(watchers=[])
    camera.on_update = camera.watchers.append
    return SimpleNamespace(camera=camera, atomic=nullcontext)


def test_without_a_viewer_nothing_happens() -> None:
    panel = FlowCamPanel()
    panel.status("text")
    panel.push_cameras(poses(3), {0: 0})
    panel.set_start_view(np.eye(4), 1.0, 0.8)


def test_frusta_follow_the_frames_of_their_images() -> None:
    panel, viewer = FlowCamPanel(max_resolution=192), fake_viewer(2)
    panel._setup(viewer)  # type: ignore[arg-type]
    assert viewer.control_panel._max_res.value == 192
    posed = np.array([True, True, True, False])
    panel.push_cameras(poses(4), {0: 1, 1: 3}, posed)
    assert viewer.camera_handles[0].position == pytest.approx(RATIO * np.array([1.0, 2.0, 3.0]))
    assert viewer.camera_handles[0].wxyz == pytest.approx([1, 0, 0, 0])
    assert [handle.visible for handle in viewer.camera_handles.values()] == [True, False]
    # nerfstudio redraws from this copy, in its own (OpenGL) axes.
    assert viewer.original_c2w[0][:, :3] == pytest.approx(np.diag([1.0, -1.0, -1.0]))
    assert viewer.original_c2w[0][:, 3] == pytest.approx([1.0, 2.0, 3.0])
    assert viewer.viser_server.trajectory.shape == (3, 3)


def test_status_reaches_viewers_that_come_later() -> None:
    panel, viewer = FlowCamPanel(), fake_viewer(1)
    panel.status("solving")
    panel._setup(viewer)  # type: ignore[arg-type]
    assert panel._markdown.content == "solving"
    panel.status("training")
    assert panel._markdown.content == "training"


def test_viewers_start_behind_the_first_camera_and_see_the_scene() -> None:
    panel, viewer = FlowCamPanel(), fake_viewer(1)
    panel._setup(viewer)  # type: ignore[arg-type]
    present, later = client(), client()
    viewer.viser_server.clients = {0: present}
    c2w = poses(2)[1]  # looks along z
    panel.set_start_view(c2w, depth=2.0, vertical_fov=0.7)
    viewer.viser_server.on_connect(later)
    for one in (present, later):
        assert one.camera.fov == 0.7
        assert one.camera.look_at == pytest.approx(RATIO * np.array([1.0, 2.0, 5.0]))
        assert (RATIO * c2w[:3, 3] - one.camera.position) @ c2w[:3, 2] > -RATIO
    moved = present.camera.position.copy()
    panel.set_start_view(np.eye(4), 1.0, 0.7)
    assert present.camera.position == pytest.approx(moved), "a user who has looked around is left alone"


def test_a_viewer_jumps_to_where_a_frame_was_taken_and_others_stay() -> None:
    panel, viewer = FlowCamPanel(), fake_viewer(1)
    panel.set_frames(["0: a.png"], poses(1))
    panel._setup(viewer)  # type: ignore[arg-type]
    panel.set_frames(["0: a.png", "2: c.png"], poses(3)[[0, 2]])
    assert panel._jump.options == ["-", "0: a.png", "2: c.png"]
    asking, other = client(), client()
    viewer.viser_server.clients = {0: asking, 1: other}
    panel._jump.value = "2: c.png"
    panel._jump.callback(SimpleNamespace(client=asking))
    assert asking.camera.position == pytest.approx(RATIO * np.array([2.0, 4.0, 6.0]))
    assert asking.camera.wxyz == pytest.approx([1, 0, 0, 0])
    assert not hasattr(other.camera, "position")
    panel._jump.value = "-"
    panel._jump.callback(SimpleNamespace(client=other))
    assert not hasattr(other.camera, "position")


def test_how_sure_the_cameras_are_is_said_and_shown_in_colours() -> None:
    panel, viewer = FlowCamPanel(), fake_viewer(1)
    panel.show_uncertainty("known before the viewer", np.ones((1, 3)), np.zeros((1, 3), np.uint8))
    panel._setup(viewer)  # type: ignore[arg-type]
    assert panel._sureness.content == "known before the viewer"
    assert viewer.viser_server.dots["points"].shape == (1, 3)
    std, turn = np.array([0.01, 0.02, np.inf]), np.array([0.1, 0.3, np.inf])
    text = describe(["a.png", "b.png", "c.png"], std, turn, focal=500.0, focal_std=2.5, extent=1.0)
    assert "500 px ± 2.5" in text
    assert "1.5 %" in text
    assert "0.2°" in text
    assert "least sure: b.png" in text
    panel.show_uncertainty(text, poses(3)[:, :3, 3], colours(std))
    assert panel._sureness.content == text
    assert viewer.viser_server.dots["points"] == pytest.approx(RATIO * poses(3)[:, :3, 3])
    red = viewer.viser_server.dots["colors"][:, 0].astype(int)
    assert red[0] < red[1] == red[2]


def test_nothing_is_said_of_cameras_whose_uncertainty_is_unknown() -> None:
    unknown = np.full(2, np.inf)
    assert describe(["a", "b"], unknown, unknown, 500.0, np.inf, 1.0) == ""


def test_the_frames_behind_a_view_are_named_as_the_camera_moves() -> None:
    panel, viewer = FlowCamPanel(), fake_viewer(1)
    asked: list[np.ndarray] = []
    panel.contexts_of = lambda c2w: asked.append(c2w) or [f"x={c2w[0, 3]:.0f}"]  # type: ignore[func-returns-value]
    panel._setup(viewer)  # type: ignore[arg-type]
    one = client()
    viewer.viser_server.on_connect(one)
    (watcher,) = one.camera.watchers
    watcher(SimpleNamespace(wxyz=np.array([1.0, 0, 0, 0]), position=np.array([30.0, 0, 0])))
    assert panel._contexts.content == "Blended from x=3"
    assert asked[0] == pytest.approx(np.array([[1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_module.FlowCamPanel, "_keep_adapting", lambda self: None)


@pytest.mark.usefixtures("no_thread")
def test_still_views_become_as_fine_as_the_machine_can_do_quickly() -> None:
    panel, viewer = FlowCamPanel(max_resolution=192), fake_viewer(1)
    panel.adapt(1e9)
    panel._setup(viewer)  # type: ignore[arg-type]
    found = []
    for speed in (60_000.0, 400_000.0, 500_000.0, 1e9, 1_000.0):
        panel.adapt(speed)
        found.append(viewer.control_panel._max_res.value)
    assert found == [192, 512, 512, 512, 96]
    unlimited, gpu = FlowCamPanel(), fake_viewer(1)
    unlimited._setup(gpu)  # type: ignore[arg-type]
    unlimited.adapt(1_000.0)
    assert gpu.control_panel._max_res.value == 512


@pytest.mark.usefixtures("no_thread")
def test_a_resolution_that_the_user_has_chosen_stays() -> None:
    panel, viewer = FlowCamPanel(max_resolution=192), fake_viewer(1)
    panel._setup(viewer)  # type: ignore[arg-type]
    slider = viewer.control_panel._max_res
    panel.adapt(1e9)
    assert slider.value == 512
    slider.value = 1024
    panel.adapt(1e9)
    assert slider.value == 1024
    slider.value = 512  # as if we had written it
    panel.adapt(1_000.0)
    assert slider.value == 512


def test_resolution_follows_the_speed_of_views_where_nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_module, "ADAPT_SECONDS", 0.01)
    panel, viewer = FlowCamPanel(max_resolution=192), fake_viewer(1)
    panel._setup(viewer)  # type: ignore[arg-type]
    time.sleep(0.05)
    assert viewer.control_panel._max_res.value == 192, "nothing has been drawn yet"
    panel.speed_of = lambda: 900_000.0
    started = time.monotonic()
    while viewer.control_panel._max_res.value == 192 and time.monotonic() - started < 10:
        time.sleep(0.01)
    viewer.control_panel._max_res.value, found = 300, viewer.control_panel._max_res.value
    assert found == 512
