"""`flowcam-poses DATA --output-dir DIR`: camera poses and lens of a video, as a dataset that other methods train on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import tyro

# What is imported here is light, so that --help answers at once; torch and the rest wait until there is work.
from flowcam_ns.alignment.options import AlignmentOptions
from flowcam_ns.errors import FlowCamError
from flowcam_ns.video.options import FrameOptions

if TYPE_CHECKING:
    from flowcam_ns.alignment.result import Alignment
    from flowcam_ns.formats.report import PoseReport
    from flowcam_ns.video.frames import Frames

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""


@dataclass
class PosesConfig:
    """Estimate camera poses and lens of a video, and write them as a dataset.

    Needs no known poses, no COLMAP and no GPU. The folder it writes is one that nerfstudio loads as it is:
    `ns-train splatfacto --data DIR`, `ns-train nerfacto --data DIR`. It holds images/, transforms.json, the sparse
    points as sparse_pc.ply, a COLMAP model as text, the trajectory in TUM format and as a picture, and report.json.
    """

    data: tyro.conf.Positional[Path]
    """Video file, folder of images, or dataset folder with transforms.json (its poses only score the result)."""
    output_dir: Path
    """Folder to write to. It may be missing, empty, or the result of an earlier run, which is then replaced."""
    overwrite: bool = False
    """Write even if the folder holds other things. Files of the same names are replaced, no others are touched."""
    method: Literal["flow", "network"] = "flow"
    """flow: bundle adjustment of the optical flow. network: one forward pass of a trained FlowCam network."""
    checkpoint: Optional[Path] = None  # noqa: UP045
    """The network: a file in the format of FlowCam's authors (theirs, or one that flowcam-pretrain wrote), or
    `small`, which is shipped."""
    refine: bool = False
    """Improve the network's poses by bundle adjustment, which starts from them."""
    image_format: Literal["jpg", "png"] = "jpg"
    """How the images are stored: small, or without loss."""
    frames: Annotated[FrameOptions, tyro.conf.arg(name="")] = field(default_factory=FrameOptions)
    """Which frames are read."""
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    """How poses are estimated."""


def run(config: PosesConfig) -> PoseReport:
    """Do what the command does: read, estimate, write, print.

    Raises:
        FlowCamError: the input, the options or the output folder cannot be used; the message says what to do.
    """
    from flowcam_ns.alignment.export import SUBFOLDERS, write_dataset
    from flowcam_ns.cli.poses_summary import print_summary
    from flowcam_ns.formats.atomic import check_output_folder
    from flowcam_ns.video.load import load_frames

    _check_method(config)
    data, folder = config.data.expanduser(), config.output_dir.expanduser()
    check_output_folder(folder, config.overwrite, data, SUBFOLDERS)
    with _progress_bars() as progress:
        start = time.perf_counter()

        def count(done: int, total: int | None) -> None:
            progress("decode", done / total if total else 0.0)

        frames = load_frames(data, config.frames, count)
        progress("decode", 1.0)
        decode_seconds = time.perf_counter() - start
        alignment = _estimate(config, frames, progress)
        if int(alignment.posed.sum()) < 2:
            raise FlowCamError(f"No two frames of {data} could be tied together; film with more overlap or more light.")
        alignment = replace(alignment, seconds={"decode": decode_seconds, **alignment.seconds})
        progress("write", 0.0)
        report = write_dataset(folder, frames, alignment, config.image_format, config.overwrite)
        progress("write", 1.0)
    print_summary(report, folder)
    return report


def _check_method(config: PosesConfig) -> None:
    if config.method == "network":
        if config.checkpoint is None:
            raise FlowCamError("--method network needs the network: --checkpoint FILE")
        from flowcam_ns.model.checkpoint import locate

        if not locate(config.checkpoint).is_file():
            raise FlowCamError(f"there is no checkpoint {config.checkpoint}")
    elif config.checkpoint is not None or config.refine:
        raise FlowCamError("--checkpoint and --refine belong to --method network")


def _estimate(config: PosesConfig, frames: Frames, progress: Callable[..., None]) -> Alignment:
    if config.checkpoint is not None:
        from flowcam_ns.data.network_poses import network_alignment

        return network_alignment(frames, config.checkpoint, frames.camera, config.alignment, progress, config.refine)
    from flowcam_ns.alignment.estimate import estimate_poses

    return estimate_poses(frames, frames.camera, config.alignment, progress)


def entrypoint() -> None:
    """The installed command: errors that a user can mend are one line on stderr and exit code 1 (2: wrong usage)."""
    try:
        # Command-line flags are named like the fields, with dashes; tyro exits with 2 where they make no sense.
        run(tyro.cli(PosesConfig, prog="flowcam-poses"))
    except FlowCamError as error:
        _end(str(error), 1)
    except KeyboardInterrupt:
        _end("Interrupted.", INTERRUPTED)
    except MemoryError:
        _end("Out of memory; use fewer or smaller frames (--max-frames, --max-size).", 1)
    except BrokenPipeError:
        # Whoever read our output has left (`| head`). Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        _end(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1)


def _end(message: str, code: int) -> None:
    sys.stdout.flush()
    print(f"flowcam-poses: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None


@contextmanager
def _progress_bars() -> Iterator[Callable[..., None]]:
    """Bars on a terminal, one a stage, gone when the block ends; gives the function that takes (stage, share done)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>10}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # In a log file bars are noise, and an error must be the only line on stderr.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: float, _c2w: object = None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=min(max(done, 0.0), 1.0))

        yield report
