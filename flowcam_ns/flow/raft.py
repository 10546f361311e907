"""RAFT (Teed and Deng, ECCV 2020) with torchvision's published weights: more accurate than DIS, made for a GPU."""

from __future__ import annotations

import hashlib
import pickle
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from flowcam_ns.errors import FlowCamError

MULTIPLE = 8
"""RAFT works at an eighth of the image size."""
DOWNLOAD_TIMEOUT_SECONDS = 20.0
"""A network that answers nothing must not hang the run."""
SMALLEST = 128
"""Smallest side RAFT's correlation pyramid can take."""


@dataclass
class RAFTFlow:
    """RAFT-large or RAFT-small; the weights are found or downloaded at the first call."""

    small: bool = False
    """RAFT-small: 5 x fewer weights, less accurate."""
    updates: int = 12
    """Recurrent updates; 6 lose little accuracy and take two thirds of the time."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    color: bool = True
    uses_initial: bool = False
    max_workers: int = 1
    long_side: int = 512
    _model: torch.nn.Module | None = field(default=None, repr=False, compare=False)
    _weights: str = field(default="", repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def with_small_weights(cls, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> RAFTFlow:
        """RAFT-small with the weights of a state dict of torchvision's `raft_small` (those of a FlowCam checkpoint).

        Raises FlowCamError where they do not fit.
        """
        from torchvision.models.optical_flow import raft_small

        network = raft_small(weights=None)
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            raise FlowCamError(f"the checkpoint's flow weights are not those of RAFT-small: {error}") from error
        digest = hashlib.sha256()
        for name in sorted(state):
            digest.update(name.encode() + state[name].detach().cpu().contiguous().numpy().tobytes())
        device = torch.device(device)
        return cls(
            small=True,
            device=device,
            _model=network.to(device).eval(),
            _weights=f"checkpoint {digest.hexdigest()[:16]}",
        )

    @property
    def name(self) -> str:
        """`raft` or `raft-small`."""
        return "raft-small" if self.small else "raft"

    @property
    def key(self) -> str:
        """Network, weights and number of updates. Raises FlowCamError where the weights can't be had."""
        self._load()
        return f"{self.name} {self._weights} {self.updates} updates {self.device.type}"

    def weights(self) -> dict[str, Tensor]:
        """The network's weights. Raises FlowCamError where they can't be had."""
        return dict(self._load().state_dict())

    @torch.no_grad()
    def __call__(
        self,
        first: UInt8[np.ndarray, "h w 3"],
        second: UInt8[np.ndarray, "h w 3"],
        initial: Float32[np.ndarray, "h w 2"] | None = None,
    ) -> Float32[np.ndarray, "h w 2"]:
        """Flow in px from `first` to `second`, both RGB; RAFT searches everywhere, so `initial` changes nothing."""
        model = self._load()
        height, width = first.shape[:2]
        images = torch.stack([self._prepare(first), self._prepare(second)])
        with self._lock:
            flow = model(images[:1], images[1:], num_flow_updates=self.updates)[-1][0]
        return flow[:, :height, :width].permute(1, 2, 0).float().cpu().contiguous().numpy()

    def _prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[Tensor, "3 padded_h padded_w"]:
        """In [-1, 1], the right and bottom border repeated to a size RAFT takes (pixels stay where they are)."""
        tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1).float() / 127.5 - 1
        pad_y, pad_x = (max(-size % MULTIPLE, SMALLEST - size) for size in image.shape[:2])
        return torch.nn.functional.pad(tensor[None], (0, pad_x, 0, pad_y), mode="replicate")[0]

    def _load(self) -> torch.nn.Module:
        with self._lock:
            if self._model is None:
                self._model, self._weights = load_network(self.small)
                self._model = self._model.to(self.device).eval()
            return self._model


def load_network(small: bool) -> tuple[torch.nn.Module, str]:
    """RAFT and the name of its weights: a file of torchvision's in TORCH_HOME's `hub/checkpoints`, or its download.

    Raises FlowCamError where there is neither a file nor a network.
    """
    from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights, raft_large, raft_small

    build = raft_small if small else raft_large
    known = list(Raft_Small_Weights if small else Raft_Large_Weights)
    default = Raft_Small_Weights.DEFAULT if small else Raft_Large_Weights.DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    # Any of the general-purpose weights will do before a download; those tuned to one dataset's test set will not.
    usable = [default] + [w for w in known if w is not default and w.name.startswith("C_T_") and "FT" not in w.name]
    chosen = next((w for w in usable if (folder / Path(w.url).name).is_file()), default)
    path = folder / Path(chosen.url).name
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
        state = torch.hub.load_state_dict_from_url(
            chosen.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
        network = build(weights=None)
        network.load_state_dict(state)
        return network, chosen.name
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise FlowCamError(
            f"No weights for RAFT ({type(error).__name__}): download {chosen.url} to {path}, "
            "or choose the flow estimator 'dis', which needs none."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
