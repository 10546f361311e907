"""The published network reproduces the authors' forward on both stored vectors, from seeded weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flowcam_ns.errors import FlowCamError
from flowcam_ns.model.reference import load_reference

DATA = Path(__file__).parents[1] / "data"
FILES = ("flowcam_reference.npz", "flowcam_reference_b2v3.npz")


@pytest.fixture(scope="module")
def seeded_weights() -> dict[str, torch.Tensor]:
    """The weights behind the vectors: random by a recipe over the sorted names of the authors' checkpoint."""
    shapes = json.loads((DATA / "flowcam_checkpoint_keys.json").read_text())
    random = np.random.RandomState(20230600)
    weights = {}
    for name in sorted(shapes):
        if name.startswith("raft_midas_net."):
            continue
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        shape = shapes[name]
        x = random.standard_normal(shape)
        if name.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif name.endswith("running_mean"):
            x = 0.1 * x
        elif len(shape) >= 2:
            x = x * np.sqrt(1.5 / np.prod(shape[1:]))
        elif name.endswith("weight"):
            x = 1 + 0.1 * x
        else:
            x = 0.05 * x
        weights[name] = torch.from_numpy(np.asarray(x, dtype=np.float32))
    return weights


@pytest.fixture(scope="module", params=FILES)
def vectors(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    with np.load(DATA / request.param) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def outputs(vectors: dict[str, np.ndarray], seeded_weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model = load_reference(seeded_weights, num_views=int(vectors["num_view"]))
    with torch.no_grad():
        return model({name: value for name, value in vectors.items() if name.startswith("in_")})


TOLERANCES = {
    "out_rgb": 1e-4,
    "out_ctxt_rgb": 1e-4,
    "out_poses": 1e-4,
    "out_depth": 5e-4,
    "out_ctxt_depth": 5e-4,
    "out_corr_weights": 1e-4,
    "out_flow_from_pose": 1e-4,
    "out_loss_rgb": 1e-4,
    "out_loss_ctxt_rgb": 1e-4,
    "out_loss_flow": 1e-4,
    "out_loss_flow_unclipped": 1e-4,
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_output_equals_the_authors(name: str, vectors: dict[str, np.ndarray], outputs: dict[str, torch.Tensor]) -> None:
    assert outputs[name].shape == vectors[name].shape
    error = np.abs(outputs[name].numpy() - vectors[name]).max()
    assert error < TOLERANCES[name]


def test_features_equal_the_authors_relative_to_their_size(
    vectors: dict[str, np.ndarray], outputs: dict[str, torch.Tensor]
) -> None:
    truth = vectors["out_features"]
    assert np.abs(outputs["out_features"].numpy() - truth).max() / np.abs(truth).max() < 1e-4


def tiny_inputs() -> dict[str, torch.Tensor]:
    height, width = 8, 12
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    images = torch.rand(1, 3, 3, height, width) * 2 - 1
    return {
        "ctxt_rgb": images[:, :-1],
        "trgt_rgb": images[:, 1:],
        "x_pix": torch.stack([x, y], dim=-1).reshape(1, 1, -1, 2).expand(1, 2, -1, 2),
        "intrinsics": torch.tensor([[1.0, 0, 0.5], [0, 1.5, 0.5], [0, 0, 1]]).expand(1, 2, 3, 3),
        "bwd_flow": 0.01 * torch.randn(1, 2, 2, height, width),
        "trgt_rays": torch.arange(5),
        "ctxt_rays": torch.arange(7, 20),
    }


def test_names_may_go_without_their_prefixes(seeded_weights: dict[str, torch.Tensor]) -> None:
    inputs = tiny_inputs()
    wrapped = load_reference({f"module.{name}": x for name, x in seeded_weights.items()}, num_views=2)
    with torch.no_grad():
        bare = wrapped(inputs)
        prefixed = load_reference(seeded_weights, 2)({f"in_{name}": x.numpy() for name, x in inputs.items()})
    assert {f"out_{name}" for name in bare} == prefixed.keys()
    assert torch.equal(bare["poses"], prefixed["out_poses"])


def test_missing_inputs_and_another_grid_are_refused(seeded_weights: dict[str, torch.Tensor]) -> None:
    model, inputs = load_reference(seeded_weights, num_views=2), tiny_inputs()
    with pytest.raises(FlowCamError, match="bwd_flow"):
        model({name: value for name, value in inputs.items() if name != "bwd_flow"})
    with pytest.raises(FlowCamError, match="x_pix"):
        model(inputs | {"x_pix": inputs["x_pix"] + 0.01})
