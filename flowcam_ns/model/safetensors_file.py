"""Checkpoints as safetensors: what the authors' format holds, in files of numbers and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowcam_ns.errors import FlowCamError

SUFFIX = ".safetensors"
WEIGHTS = "model_state_dict"
ABOUT = "flowcam"
"""The entry of the file's header that holds everything but the weights, as JSON."""


def read_safetensors(path: Path) -> dict[str, Any]:
    """What `torch.load` gives for a file in the authors' format. Raises FlowCamError where it is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads((file.metadata() or {}).get(ABOUT, "{}"))
    except FileNotFoundError as error:
        raise FlowCamError(f"there is no checkpoint {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise FlowCamError(f"{path} is not a safetensors file of a FlowCam network") from error
    if not isinstance(about, dict):
        raise FlowCamError(f"{path} is not a safetensors file of a FlowCam network")
    return {**about, WEIGHTS: weights}


def write_safetensors(path: Path, content: dict[str, Any]) -> None:
    """Write the content of a checkpoint to `path` (not atomically)."""
    from safetensors.torch import save_file

    about = {name: value for name, value in content.items() if name != WEIGHTS}
    weights = {name: tensor.contiguous() for name, tensor in content[WEIGHTS].items()}
    save_file(weights, path, metadata={ABOUT: json.dumps(about)})
