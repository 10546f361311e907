"""The authors' checkpoints: reading, running and writing them in their own format."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flowcam_network import FlowCamNetwork
from flowcam_ns.model.losses import published_losses
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.surfaces import pixel_coordinates

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
INPUT_PREFIX, OUTPUT_PREFIX = "in_", "out_"
INPUT_NAMES = ("trgt_rgb", "ctxt_rgb", "x_pix", "intrinsics", "bwd_flow", "trgt_rays", "ctxt_rays")
LISTED_DIFFERENCES = 8
GRID_TOLERANCE = 1e-4


@dataclass
class Checkpoint:
    """What a file of the authors holds."""

    network: dict[str, Tensor]
    """The network's weights under the authors' names."""
    raft: dict[str, Tensor]
    """Weights of torchvision's `raft_small`, the flow that the network was trained with; empty where left out."""
    step: int | None
    """Training steps done."""


class ReferenceNetwork(nn.Module):
    """The published forward on dicts named like the authors' arrays."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.network = FlowCamNetwork(config)

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Outputs and losses of a batch of clips, on the network's device.

        Args:
            inputs: `trgt_rgb`, `ctxt_rgb` [b n 3 h w] in [-1, 1], `intrinsics` [b n 3 3], `bwd_flow` [b n 2 h w],
                `x_pix` [b n h*w 2] (optional), `trgt_rays` and `ctxt_rays`: pixel indices; tensors or arrays. All names
                may start with `in_`; those of the outputs then start with `out_`.

        Returns:
            `rgb`, `depth`, `ctxt_rgb`, `ctxt_depth`, `poses`, `corr_weights`, `flow_from_pose`, `features` (every 4th
            row and column), `loss_rgb`, `loss_ctxt_rgb`, `loss_flow`, `loss_flow_unclipped`.
        """
        device = self.network.field.phi2.out.weight.device
        prefixed = any(name.startswith(INPUT_PREFIX) for name in inputs)
        named = {name.removeprefix(INPUT_PREFIX): value for name, value in inputs.items()}
        arrays = {name: torch.as_tensor(named[name], device=device) for name in INPUT_NAMES if name in named}
        missing = [name for name in INPUT_NAMES if name not in arrays and name != "x_pix"]
        if missing:
            raise FlowCamError(f"the reference network also needs the inputs {', '.join(missing)}")
        clip = _clip(arrays)
        context_rays, target_rays = arrays["ctxt_rays"].long(), arrays["trgt_rays"].long()
        output = self.network(clip, context_rays, target_rays)
        motion, rendered = output.motion, output.rendered
        if rendered is None:
            raise FlowCamError("trgt_rays is empty: name at least one pixel to render")
        outputs = {
            "rgb": rendered.rgb,
            "depth": rendered.depth,
            "ctxt_rgb": motion.surfaces.rgb[:, :-1],
            "ctxt_depth": motion.surfaces.depth[:, :-1],
            "poses": motion.c2w[:, 1:],
            "corr_weights": motion.weights,
            "flow_from_pose": motion.flow_from_pose,
            "features": motion.features[..., ::4, ::4],
        }
        losses = published_losses(output, clip, context_rays, target_rays)
        outputs |= {f"loss_{name}": loss for name, loss in losses.items()}
        return {OUTPUT_PREFIX + name: value for name, value in outputs.items()} if prefixed else outputs


def load_reference(state_dict: Mapping[str, Tensor], num_views: int) -> ReferenceNetwork:
    """The published network with the authors' weights, in eval mode, re-rendering from `num_views` context frames.

    `state_dict` may hold `module.` before its names and the flow network's weights; both are passed over. Raises
    FlowCamError naming the keys and shapes that do not fit.
    """
    model = ReferenceNetwork(NetworkConfig(num_context_views=num_views))
    network, _ = _split(state_dict)
    check_fits(network, published_shapes())
    model.network.load_state_dict(to_our_names(network))
    return model.eval()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint in the authors' format (a dict with `model_state_dict`); runs no code from the file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FlowCamError(f"there is no checkpoint {path}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise FlowCamError(f"{path} is not a PyTorch checkpoint that holds weights alone") from error
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise FlowCamError(f"{path} is not a FlowCam checkpoint: it holds no dict of tensors named model_state_dict")
    network, raft = _split(state)
    check_fits(network, published_shapes(), str(path))
    step = content.get("step")
    return Checkpoint(network, raft, step if isinstance(step, int) else None)


def write_checkpoint(
    path: Path, network: FlowCamNetwork, step: int = 0, raft: Mapping[str, Tensor] | None = None
) -> None:
    """Write a network of the published sizes as the authors do; a file is replaced only once all is written."""
    state = to_authors_names(network.state_dict())
    check_fits(state, published_shapes(), "the network")
    state |= {RAFT_PREFIX + name: tensor for name, tensor in (raft or {}).items()}
    partial = path.with_name(f".{path.name}.partial")
    torch.save({"model_state_dict": {name: tensor.cpu() for name, tensor in state.items()}, "step": step}, partial)
    partial.replace(path)


def published_shapes() -> dict[str, torch.Size]:
    """Every key of the published network under the authors' names, with its shape."""
    with torch.device("meta"):
        network = FlowCamNetwork(NetworkConfig())
    return {name: tensor.shape for name, tensor in to_authors_names(network.state_dict()).items()}


def check_fits(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str = "the state dict") -> None:
    """Raise FlowCamError naming the keys and shapes by which `state` differs from the published network."""
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
        raise FlowCamError(f"{what} is not the published FlowCam network: {listed}{more}")


def to_authors_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our network's state dict under the authors' names."""
    return {_renamed(name, {ours: theirs for theirs, ours in PREFIXES.items()}): x for name, x in state.items()}


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict (network alone, as in `Checkpoint.network`) under our names."""
    return {_renamed(name, PREFIXES): tensor for name, tensor in state.items()}


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's and the flow network's weights, without the training wrapper's prefix."""
    bare = {name.removeprefix(WRAPPER_PREFIX): tensor for name, tensor in state.items()}
    raft = {name[len(RAFT_PREFIX) :]: tensor for name, tensor in bare.items() if name.startswith(RAFT_PREFIX)}
    return {name: tensor for name, tensor in bare.items() if not name.startswith(UNUSED_PREFIX)}, raft


def _clip(arrays: Mapping[str, Tensor]) -> Clip:
    """The authors' two overlapping lists of frames as one clip; frame 0 takes frame 1's intrinsics."""
    images = torch.cat([arrays["ctxt_rgb"][:, :1], arrays["trgt_rgb"]], dim=1)
    K = arrays["intrinsics"]
    clip = Clip(images, arrays["bwd_flow"], torch.cat([K[:, :1], K], dim=1))
    if "x_pix" in arrays:
        height, width = clip.size
        grid = pixel_coordinates(torch.arange(height * width, device=K.device), clip.size, centre=0.0)
        given = arrays["x_pix"]
        if given.shape[-2:] != grid.shape or bool((given - grid).abs().max() > GRID_TOLERANCE):
            raise FlowCamError("x_pix must be each pixel's index divided by (width, height), row by row")
    return clip
