"""What every test shares: no network, no user cache, few threads, and the recorded sequences where they are at hand."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from flowcam_ns.data.solve import Reconstruction
    from flowcam_ns.synthetic.clip import SyntheticClip

PROJECT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FLOWCAM_SHARED") or PROJECT.parent / "shared")
MAX_THREADS = 4
NOWHERE = "http://127.0.0.1:9"

_scratch = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Set up this process, and through the environment the commands that tests start."""
    scratch = tempfile.mkdtemp(prefix="flowcam-tests-")
    config.stash[_scratch] = scratch
    os.environ["FLOWCAM_CACHE"] = str(Path(scratch) / "cache")
    os.environ["MPLBACKEND"] = "Agg"
    _use_local_weights(Path(scratch))
    _forbid_network()
    hypothesis.settings.register_profile("flowcam", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("flowcam")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the scratch folder."""
    shutil.rmtree(config.stash.get(_scratch, ""), ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark everything under tests/gpu, and skip it where there is no GPU."""
    gpu_items = [item for item in items if Path(__file__).with_name("gpu") in item.path.parents]
    if not gpu_items:
        return
    import torch

    for item in gpu_items:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Keep torch from oversubscribing large machines; small tensors gain nothing from more."""
    import torch

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(MAX_THREADS, os.cpu_count() or 1) // workers))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with recorded sequences, weights and reference values; the test is skipped where it is missing."""
    if (SHARED / "data").is_dir():
        return SHARED
    if os.environ.get("FLOWCAM_REQUIRE_SHARED") == "1":
        pytest.fail(f"FLOWCAM_REQUIRE_SHARED=1, but there is no {SHARED}/data")
    pytest.skip(f"recorded sequences are not at hand ({SHARED}); set FLOWCAM_SHARED")


def _use_local_weights(scratch: Path) -> None:
    if "TORCH_HOME" not in os.environ:
        local = SHARED / "weights"
        os.environ["TORCH_HOME"] = str(local if local.is_dir() else scratch / "torch")


def _forbid_network() -> None:
    """Make downloads fail at once instead of hanging or passing by luck; services on this machine stay reachable."""
    for name in ("http_proxy", "https_proxy"):
        os.environ[name] = os.environ[name.upper()] = NOWHERE
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1,0.0.0.0,::1"


@pytest.fixture(scope="session")
def true_reconstruction() -> Callable[[SyntheticClip, int], Reconstruction]:
    """What a solve of a synthetic clip would find if it were exact, with one frame left without a pose."""
    import torch

    from flowcam_ns.alignment.result import Alignment
    from flowcam_ns.data.held_out import held_out_frames
    from flowcam_ns.data.solve import Reconstruction

    def make(clip: SyntheticClip, unposed: int) -> Reconstruction:
        count = len(clip.c2w)
        posed = torch.ones(count, dtype=torch.bool)
        posed[unposed] = False
        usable = posed.clone()
        usable[held_out_frames(count)] = False
        inverse = 1 / torch.from_numpy(clip.depth) * usable[:, None, None]
        none, points = torch.zeros(count, 0), torch.zeros(count, 0, 2)
        c2w = torch.from_numpy(clip.c2w)
        alignment = Alignment(clip.camera, c2w, posed, points, none, none, 0.1, {unposed: "blurred"})
        return Reconstruction(alignment, inverse, (inverse > 0).float())

    return make
