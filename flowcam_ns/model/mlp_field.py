"""The field's two parts as plain layers, which tiny-cuda-nn fuses into one kernel each (nerfstudio's `MLP`)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

from flowcam_ns.model.latent_field import encode_points
from flowcam_ns.model.network_config import NetworkConfig

DECODER_LAYERS = 2


class MLPPointEncoder(nn.Module):
    """One context view's reading of a point, from its position and the view's feature together."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.log_points = config.point_encoding == "log"
        self.middle_distance = math.sqrt(config.near * config.far)
        inputs = (4 if self.log_points else 3) + config.feature_channels
        self.layers = _layers(config, inputs, config.field_width, config.field_blocks + 2)

    def forward(
        self, points: Float[Tensor, "*batch 3"], features: Float[Tensor, "*#batch channels"]
    ) -> Float[Tensor, "*batch width"]:
        """`features` broadcasts over the samples of a ray where they all share one pixel."""
        encoded = encode_points(points, self.log_points, self.middle_distance)
        features = features.expand(*points.shape[:-1], -1)
        return _apply(self.layers, torch.cat([encoded.to(features.dtype), features], dim=-1))


class MLPPointDecoder(nn.Module):
    """The pooled reading of all views -> raw colour and density."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = _layers(config, config.field_width, 4, DECODER_LAYERS)

    def forward(self, pooled: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch 4"]:
        """Three colour logits and a raw density."""
        return _apply(self.layers, torch.relu(pooled))


def _layers(config: NetworkConfig, inputs: int, outputs: int, layers: int) -> MLP:
    return MLP(
        in_dim=inputs,
        num_layers=layers,
        layer_width=config.field_width,
        out_dim=outputs,
        activation=nn.ReLU(),
        out_activation=None,
        implementation=config.field_implementation,
    )


def _apply(layers: MLP, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
    """tiny-cuda-nn takes matrices and gives half precision."""
    return layers(x.flatten(0, -2)).to(x.dtype).unflatten(0, x.shape[:-1])
