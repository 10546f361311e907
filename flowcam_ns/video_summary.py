"""A short film in tensorboard. `SummaryWriter.add_video` would need moviepy; a GIF needs nothing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from jaxtyping import Float
from nerfstudio.utils import comms, writer
from PIL import Image
from tensorboard.compat.proto import summary_pb2
from torch import Tensor

MILLISECONDS = 150
"""How long each frame is shown."""


def write_clip_summary(name: str, frames: Float[Tensor, "frames height width 3"], step: int) -> None:
    """Show frames (values 0..1) as a film under `name`, where nerfstudio writes to tensorboard; main process only."""
    if not comms.is_main_process():
        return
    for each in writer.EVENT_WRITERS:
        if isinstance(each, writer.TensorboardWriter):
            each.tb_writer._get_file_writer().add_summary(_gif_summary(name, frames), step)


def _gif_summary(name: str, frames: Float[Tensor, "frames height width 3"]) -> Any:
    pixels = (frames.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    images = [Image.fromarray(np.ascontiguousarray(image)) for image in pixels]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=MILLISECONDS, loop=0)
    height, width = pixels.shape[1:3]
    Summary: Any = summary_pb2.Summary  # type: ignore[attr-defined]  # made at run time: type checkers see nothing of it
    film = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
    return Summary(value=[Summary.Value(tag=name, image=film)])
