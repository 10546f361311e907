"""Which of nerfstudio's camera types can be rendered, and how the others are refused."""

from __future__ import annotations

import threading

from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.utils.rich_utils import CONSOLE

from flowcam_ns.console import one_line_errors
from flowcam_ns.errors import FlowCamError

UNSUPPORTED = {
    CameraType.EQUIRECTANGULAR.value: "equirectangular",
    CameraType.OMNIDIRECTIONALSTEREO_L.value: "omnidirectional",
    CameraType.OMNIDIRECTIONALSTEREO_R.value: "omnidirectional",
    CameraType.VR180_L.value: "VR180",
    CameraType.VR180_R.value: "VR180",
    CameraType.ORTHOPHOTO.value: "orthographic",
}
"""What looks all around or has no single centre: a view is blended from frames that look the same way."""


def can_render(camera: Cameras) -> bool:
    """Whether views of this camera's type can be rendered; where not, a command ends with one line.

    A viewer draws in threads of its own, which nerfstudio does not restart: there the line is logged, and the answer
    is False.
    """
    kind = UNSUPPORTED.get(int(camera.camera_type.flatten()[0]))
    if kind is None:
        return True
    message = f"{kind} views cannot be rendered by this method: choose a perspective or fisheye camera"
    if threading.current_thread() is threading.main_thread():
        with one_line_errors():
            raise FlowCamError(message)
    CONSOLE.log(message)
    return False
