"""Film a procedural scene: writes demo.mp4 and truth.json, its exact poses and lens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.progress import track

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.synthetic.clip import ClipPlan, plan_clip
from flowcam_ns.synthetic.video_file import write_video


@dataclass
class MakeClip:
    """Film a procedural scene: writes demo.mp4 and truth.json (exact poses in nerfstudio's transforms format)."""

    output_dir: Path = Path("demo")
    """Folder to write into; made where missing."""
    motion: Literal["orbit", "forward", "sideways", "walk", "turn", "pure_rotation", "still", "long_walk"] = "walk"
    """How the camera moves."""
    seed: int = 0
    """Which scene, lens and path."""
    frames: int = 60
    """How many frames (60 are the whole motion at normal speed; long_walk takes 1000)."""
    width: int = 480
    """Width in px, even."""
    height: int = 270
    """Height in px, even."""
    fps: int = 30
    """Frames a second of the video file."""


def truth_json(clip: ClipPlan, video: str) -> dict[str, object]:
    """The truth of a clip in nerfstudio's transforms format: OpenGL camera-to-world and the lens in px."""
    camera = clip.camera
    opengl = se3.opencv_to_opengl(torch.from_numpy(clip.c2w)).tolist()
    k1, k2, p1, p2 = camera.distortion
    return {
        "camera_model": "OPENCV",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "k1": k1,
        "k2": k2,
        "p1": p1,
        "p2": p2,
        "video": video,
        "motion": clip.motion,
        "seed": clip.seed,
        "frames": [
            {
                "file_path": f"{video}#{index}",
                "source": str(index),
                "timestamp": index / clip.fps,
                "transform_matrix": matrix,
            }
            for index, matrix in enumerate(opengl)
        ],
    }


def main(options: MakeClip) -> None:
    """Render, encode and write."""
    clip = plan_clip(options.motion, options.seed, options.frames, options.width, options.height, fps=options.fps)
    video, truth = options.output_dir / "demo.mp4", options.output_dir / "truth.json"
    write_video(video, (clip.view(index)[0] for index in track(range(len(clip)), "Filming")), options.fps)
    unfinished = truth.with_name(".truth.json.part")
    unfinished.write_text(json.dumps(truth_json(clip, video.name), indent=1), encoding="utf-8")
    unfinished.replace(truth)
    print(f"Wrote {video} ({len(clip)} frames of {options.width} x {options.height} px) and {truth}")


if __name__ == "__main__":
    try:
        main(tyro.cli(MakeClip, description=MakeClip.__doc__))
    except FlowCamError as error:
        raise SystemExit(str(error)) from None
