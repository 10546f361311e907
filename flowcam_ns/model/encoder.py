"""Image encoders: a frame, its optical flow and its ray directions become one feature vector a pixel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcam_ns.model.network_config import NetworkConfig

IMAGE_CHANNELS = 3
FLOW_CHANNELS = 2
GROUPS = 8


def encode_directions(directions: Float[Tensor, "*batch 3"], num_frequencies: int) -> Float[Tensor, "*batch channels"]:
    """`[v, sin(f0 v), cos(f0 v), ...]`, `f = 2**linspace(1, 4, num_frequencies)`: 3 + 6 * num_frequencies channels."""
    parts = [directions]
    for frequency in torch.logspace(1, 4, num_frequencies, base=2).tolist():
        parts += [torch.sin(frequency * directions), torch.cos(frequency * directions)]
    return torch.cat(parts, dim=-1)


class ResNetPyramid(nn.Module):
    """ResNet-34 without max-pool; its stem and three stages, resized to the input and mixed by a 1x1 convolution."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        from torchvision.models import (
            resnet34,
        )  # torchvision costs most of a second: only the published network needs it

        trunk = resnet34(weights=None)
        trunk.conv1 = nn.Conv2d(IMAGE_CHANNELS + FLOW_CHANNELS, 64, 7, stride=2, padding=3)
        del trunk.fc, trunk.avgpool, trunk.maxpool
        trunk.layer4.requires_grad_(False)  # in the checkpoints, but no output reads it
        self.model = trunk
        self.out = nn.Sequential(nn.Conv2d(64 + 64 + 128 + 256, out_channels, 1))

    def forward(self, x: Float[Tensor, "batch 5 h w"]) -> Float[Tensor, "batch channels h w"]:
        """Features at the size of the input."""
        trunk, size = self.model, x.shape[-2:]
        levels = [trunk.relu(trunk.bn1(trunk.conv1(x)))]
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3):
            levels.append(stage(levels[-1]))
        resized = [F.interpolate(level, size, mode="bilinear", align_corners=True) for level in levels]
        return self.out(torch.cat(resized, dim=1))


class PublishedEncoder(nn.Module):
    """The encoder of the paper: ResNet-34 pyramid, then three convolutions that also see the ray directions."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.encoder_width
        ray_channels = 3 + 6 * config.ray_frequencies
        self.pyramid = ResNetPyramid(width)
        self.head = nn.Sequential(
            nn.Conv2d(width + ray_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, config.feature_channels - IMAGE_CHANNELS, 3, padding=1),
        )

    def forward(
        self,
        images: Float[Tensor, "batch 3 h w"],
        flow: Float[Tensor, "batch 2 h w"],
        rays: Float[Tensor, "batch channels h w"],
    ) -> Float[Tensor, "batch features h w"]:
        """Features at full size; the last three channels are the image."""
        pyramid = self.pyramid(torch.cat([images, flow], dim=1))
        return torch.cat([self.head(torch.cat([pyramid, rays], dim=1)), images], dim=1)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    groups = math.gcd(GROUPS, outputs)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(groups, outputs), nn.SiLU()
    )


class SmallEncoder(nn.Module):
    """A thin U-Net down to 1/16 and back to 1/4 of the size; no batch statistics, so a frame's features are its own."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.encoder_width
        inputs = IMAGE_CHANNELS + FLOW_CHANNELS + 3 + 6 * config.ray_frequencies
        half = max(width // 2, GROUPS)
        self.down = nn.ModuleList(
            [
                _convolution(inputs, half, 2),
                nn.Sequential(_convolution(half, width, 2), _convolution(width, width)),
                nn.Sequential(_convolution(width, width, 2), _convolution(width, width)),
                nn.Sequential(_convolution(width, width, 2), _convolution(width, width)),
            ]
        )
        self.up = nn.ModuleList([_convolution(2 * width, width), _convolution(2 * width, width)])
        self.out = nn.Conv2d(width, config.feature_channels - IMAGE_CHANNELS, 1)

    def forward(
        self,
        images: Float[Tensor, "batch 3 h w"],
        flow: Float[Tensor, "batch 2 h w"],
        rays: Float[Tensor, "batch channels h w"],
    ) -> Float[Tensor, "batch features h4 w4"]:
        """Features at a quarter of the size; the last three channels are the image, averaged down."""
        levels = [torch.cat([images, flow, rays], dim=1)]
        for stage in self.down:
            levels.append(stage(levels[-1]))
        x = levels.pop()
        for stage in self.up:
            skip = levels.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, skip], dim=1))
        colours = F.interpolate(images, x.shape[-2:], mode="area")
        return torch.cat([self.out(x), colours], dim=1)


def build_encoder(config: NetworkConfig) -> nn.Module:
    """The encoder that the config names."""
    return PublishedEncoder(config) if config.encoder == "resnet34" else SmallEncoder(config)
