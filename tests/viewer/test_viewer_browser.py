"""The viewer in a real browser: the page shows the scene, and another output changes the picture."""

from __future__ import annotations

import copy
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from flowcam_ns.method_configs.flowcam import flowcam_method
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer

from flowcam_ns.data.held_out import held_out_frames
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.pipeline import FlowCamPipeline
from flowcam_ns.synthetic.clip import SyntheticClip, make_clip
from flowcam_ns.synthetic.video_file import write_video

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--no-proxy-server",
         "--hide-scrollbars", "--window-size=1000,700", "--virtual-time-budget=20000")  # fmt: skip
COUNT, WIDTH, HEIGHT = 10, 128, 80
SECONDS = 240

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return make_clip("orbit", seed=1, frames=COUNT, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def viewer(clip: SyntheticClip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A viewer as `ns-viewer` starts it, over the true cameras and depths (an untrained field shows them well)."""
    folder = tmp_path_factory.mktemp("browser")
    write_video(folder / "clip.mp4", clip.rgb)
    config = copy.deepcopy(flowcam_method.config)
    config.pipeline.datamanager.data = folder / "clip.mp4"
    config.pipeline.datamanager.dataparser.frames.thin = False
    pipeline = config.pipeline.setup(device="cpu", test_mode="val").eval()
    assert isinstance(pipeline, FlowCamPipeline)
    cameras = EstimatedCameras(torch.from_numpy(clip.c2w), clip.camera, torch.ones(COUNT, dtype=torch.bool))
    inverse = 1 / torch.from_numpy(clip.depth)
    inverse[held_out_frames(COUNT)] = 0
    pipeline.flowcam.adopt(cameras, inverse, (inverse > 0).float())
    pipeline._spread_cameras(cameras)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        config.viewer.websocket_port = probe.getsockname()[1]
    viewer = Viewer(config.viewer, folder / "log.txt", folder / "clip.mp4", pipeline)
    viewer.init_scene(pipeline.datamanager.train_dataset, "completed")
    first = int(cameras.posed.nonzero()[0])
    pipeline.viewer_panel.set_start_view(clip.c2w[first], 2.0, 0.9)
    yield viewer
    viewer.viser_server.stop()
    # A thread that still renders when Python ends would take the process down with it.
    for thread in threading.enumerate():
        if isinstance(thread, RenderStateMachine):
            thread.running = False
            thread.join(SECONDS)


def screenshot(viewer: Viewer, file: Path) -> np.ndarray:
    """The page as a fresh browser shows it, without the control panel at its right."""
    port = viewer.config.websocket_port
    url = f"http://127.0.0.1:{port}/"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={file.with_suffix('')}", f"--screenshot={file}", url]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    image = cv2.imread(str(file))
    assert image is not None
    return image[100:600, 50:600].astype(np.float32)


def test_the_scene_is_shown_and_another_output_changes_the_pixels(viewer: Viewer, tmp_path: Path) -> None:
    viewer.set_camera_visibility(False)
    colour = screenshot(viewer, tmp_path / "rgb.png")
    assert colour.std() > 20, "a blank canvas"
    options = viewer.control_panel._output_render.gui_handle.options
    assert {"rgb", "depth", "confidence", "contexts", "flow"} <= set(options)
    viewer.control_panel._output_render.value = "confidence"
    time.sleep(0.5)
    confidence = screenshot(viewer, tmp_path / "confidence.png")
    assert np.abs(colour - confidence).mean() > 10
