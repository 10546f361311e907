"""Checkpoint files in the authors' format: reading, checking and writing them.

A file is a dict with `model_state_dict` (the network's weights under the authors' names, and those of its flow network
under `raft_midas_net.`) and `step`. Networks of other sizes than the published one also hold `layers`, the fields of
their `NetworkConfig`; files of our own training hold `long_side`, the size of the frames they were trained on.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor

from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.safetensors_file import SUFFIX, read_safetensors, write_safetensors

RAFT_PREFIX = "raft_midas_net.raft."
UNUSED_PREFIX = "raft_midas_net."
WRAPPER_PREFIX = "module."
PREFIXES = {
    "nerf_enc_flow.": "encoder.pyramid.",
    "ray_comb.": "encoder.head.",
    "renderer.": "field.",
    "corr_weighter_perpoint.": "confidence.",
}
"""The authors' names of the parts -> ours; below these the names agree."""
LISTED_DIFFERENCES = 8
PUBLISHED_LONG_SIDE = 128
"""Size of the frames that the authors' RealEstate10K checkpoint was trained on, px."""
SHIPPED = {"small": Path(__file__).parents[1] / "weights" / "small.safetensors"}
"""Networks that come with the package, by the names that stand for their files."""
MAY_BE_ZERO = ("pose_steps", "pose_search", "joint_steps")
LARGEST_NUMBER = 4096
"""No width, count or distance of a network in a file may be larger: files are not trusted."""


@dataclass
class Checkpoint:
    """What a file holds."""

    network: dict[str, Tensor]
    """The network's weights under the authors' names."""
    raft: dict[str, Tensor]
    """Weights of torchvision's `raft_small`, the flow that the network was trained with; empty where left out."""
    step: int | None
    """Training steps done."""
    layers: NetworkConfig = field(default_factory=NetworkConfig)
    """What the network is made of."""
    long_side: int = PUBLISHED_LONG_SIDE
    """Long side in px of the frames that the network was trained on."""

    def build(self) -> FlowCamNetwork:
        """The network with its weights, in eval mode."""
        network = FlowCamNetwork(self.layers)
        network.load_state_dict(to_our_names(self.network))
        return network.eval()


def locate(path: Path) -> Path:
    """The file of a checkpoint, absolute: the shipped one where `path` is its name and no file of the user's."""
    path = path.expanduser()
    return path.absolute() if path.exists() else SHIPPED.get(str(path), path.absolute())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file (or the same as `.safetensors`, or a shipped one by name); runs no code from it.

    Raises FlowCamError where the file is missing, is no checkpoint, or holds another network: by key and shape.
    """
    path = locate(path)
    content = read_safetensors(path) if path.suffix == SUFFIX else _loaded(path)
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        hint = "; take the flowcam.pt beside it" if isinstance(content, dict) and "pipeline" in content else ""
        raise FlowCamError(
            f"{path} is not a FlowCam checkpoint: it holds no dict of tensors named model_state_dict{hint}"
        )
    network, raft = split(state)
    layers = _layers(content.get("layers"), path)
    check_fits(network, shapes_of(layers), str(path))
    step, long_side = content.get("step"), content.get("long_side", PUBLISHED_LONG_SIDE)
    if not isinstance(long_side, int) or not 8 <= long_side <= LARGEST_NUMBER:
        raise FlowCamError(f"{path} has long_side {long_side!r}; it must be a number of px")
    return Checkpoint(network, raft, step if isinstance(step, int) else None, layers, long_side)


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FlowCamError(f"there is no checkpoint {path}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise FlowCamError(f"{path} is not a PyTorch checkpoint that holds weights alone") from error


def write_checkpoint(
    path: Path,
    network: FlowCamNetwork,
    step: int = 0,
    raft: Mapping[str, Tensor] | None = None,
    long_side: int = PUBLISHED_LONG_SIDE,
) -> None:
    """Write a network as the authors do, or as safetensors where `path` ends so; a file is replaced only once all is
    written.

    A network with the published settings gives a file that their own code loads (as safetensors: not).
    """
    state = to_authors_names(network.state_dict())
    state |= {RAFT_PREFIX + name: tensor for name, tensor in (raft or {}).items()}
    content: dict[str, Any] = {
        "model_state_dict": {name: tensor.detach().cpu() for name, tensor in state.items()},
        "step": step,
        "long_side": long_side,
    }
    if network.config != NetworkConfig():
        content["layers"] = asdict(network.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.suffix == SUFFIX:
            write_safetensors(partial, content)
        else:
            torch.save(content, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def shapes_of(layers: NetworkConfig) -> dict[str, torch.Size]:
    """Every key of a network under the authors' names, with its shape."""
    with torch.device("meta"):
        network = FlowCamNetwork(layers)
    return {name: tensor.shape for name, tensor in to_authors_names(network.state_dict()).items()}


def check_fits(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str = "the state dict") -> None:
    """Raise FlowCamError naming the keys and shapes by which `state` differs from the network of these `shapes`."""
    faults = [f"{name} is missing" for name in shapes if name not in state]
    faults += [f"{name} is not part of the network" for name in state if name not in shapes]
    faults += [
        f"{name} is {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape
    ]
    if faults:
        more = f"; and {len(faults) - LISTED_DIFFERENCES} more" if len(faults) > LISTED_DIFFERENCES else ""
        listed = "; ".join(faults[:LISTED_DIFFERENCES])
        raise FlowCamError(f"{what} does not hold this FlowCam network: {listed}{more}")


def to_authors_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our network's state dict under the authors' names."""
    return {_renamed(name, {ours: theirs for theirs, ours in PREFIXES.items()}): x for name, x in state.items()}


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict (network alone, as in `Checkpoint.network`) under our names."""
    return {_renamed(name, PREFIXES): tensor for name, tensor in state.items()}


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's and the flow network's weights, without the training wrapper's prefix."""
    bare = {name.removeprefix(WRAPPER_PREFIX): tensor for name, tensor in state.items()}
    raft = {name[len(RAFT_PREFIX) :]: tensor for name, tensor in bare.items() if name.startswith(RAFT_PREFIX)}
    return {name: tensor for name, tensor in bare.items() if not name.startswith(UNUSED_PREFIX)}, raft


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def _layers(content: object, path: Path) -> NetworkConfig:
    """The network's settings as a file gives them: known names, right types, sane sizes."""
    if content is None:
        return NetworkConfig()
    hints = get_type_hints(NetworkConfig)
    if not isinstance(content, dict) or not content.keys() <= {each.name for each in fields(NetworkConfig)}:
        raise FlowCamError(f"{path} holds layers that are not those of a FlowCam network")
    for name, value in content.items():
        if not _is_sane(value, hints[name], 0 if name in MAY_BE_ZERO else 1):
            raise FlowCamError(f"{path} holds a network with {name} = {str(value)[:40]!r}, which cannot be")
    return NetworkConfig(**content)


def _is_sane(value: object, kind: Any, least: int) -> bool:
    if getattr(kind, "__origin__", None) is Literal:
        return value in get_args(kind)
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return type(value) is int and least <= value <= LARGEST_NUMBER
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER  # type: ignore[arg-type]
