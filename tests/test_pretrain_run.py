"""`ns-train flowcam-pretrain`: a run, its resumption, what it leaves, and the same in two processes."""

from __future__ import annotations

import copy
import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flowcam_ns.method_configs.flowcam_pretrain import flowcam_pretrain_method, flowcam_pretrain_small_method
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.scripts.train import main
from nerfstudio.utils import writer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowcam_ns.distributed import train_on_cpu
from flowcam_ns.errors import FlowCamError
from flowcam_ns.formats.atomic import write_json
from flowcam_ns.formats.transforms_json import PosedFrame, transforms_dict
from flowcam_ns.model.checkpoint import read_checkpoint
from flowcam_ns.model.losses import NetworkLossConfig
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.pretrain_pipeline import PretrainPipeline, PretrainPipelineConfig
from flowcam_ns.pretrain_trainer import PretrainTrainerConfig
from flowcam_ns.synthetic.clip import make_clip

CLIPS = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for seed in range(CLIPS):
        clip = make_clip("orbit", seed, frames=8, width=96, height=54)
        (folder / f"clip{seed}" / "images").mkdir(parents=True)
        frames = []
        for k, image in enumerate(clip.rgb):
            Image.fromarray(image).save(folder / f"clip{seed}" / "images" / f"{k}.png")
            frames.append(PosedFrame(f"images/{k}.png", clip.c2w[k], str(k), k / 30))
        write_json(folder / f"clip{seed}" / "transforms.json", transforms_dict(clip.camera, frames))
    return folder


def small_run(data: Path, output: Path, steps: int, clips_per_batch: int = 1) -> PretrainTrainerConfig:
    config = copy.deepcopy(flowcam_pretrain_small_method.config)
    assert isinstance(config, PretrainTrainerConfig)
    assert isinstance(config.pipeline, PretrainPipelineConfig)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.max_num_iterations = output, steps
    config.machine.device_type = "cpu"
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 2
    config.logging.steps_per_log = 1
    clips = config.pipeline.datamanager.clips
    clips.height, clips.width, clips.clip_length = 27, 48, 4
    clips.context_rays, clips.target_rays, clips.validation_clips = 40, 12, 2
    clips.clips_per_batch, clips.validation_share, clips.flow = clips_per_batch, 0.25, "dis"
    clips.keep_shape = clips_per_batch == 1
    config.set_timestamp()
    config.save_config()
    return config


def run(config: PretrainTrainerConfig) -> PretrainPipeline:
    """Train in this process, as if it were a new one: nerfstudio's writers are global and would add up."""
    for collection in (writer.EVENT_WRITERS, writer.EVENT_STORAGE, writer.GLOBAL_BUFFER):
        collection.clear()
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    trainer.train()
    assert isinstance(trainer.pipeline, PretrainPipeline)
    return trainer.pipeline


def scalars(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for file in sorted(folder.glob("events*")):
        events = EventAccumulator(str(file), {"scalars": 0, "images": 0}).Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, []).extend(event.value for event in events.Scalars(name))
    return found


def test_a_run_scores_held_out_clips_and_leaves_a_network_that_others_start_from(data: Path, tmp_path: Path) -> None:
    config = small_run(data, tmp_path, steps=4)
    pipeline = run(config)
    folder = config.get_base_dir()
    logged = scalars(folder)
    assert len(logged["Train Loss"]) == 4
    assert np.isfinite(logged["Train Loss"]).all()
    for name in ("psnr", "ssim", "flow_error_px", "rotation_deg", "constant_rotation_deg", "direction_deg", "ate"):
        assert np.isfinite(logged[f"Eval Images Metrics Dict (all images)/{name}"]).all(), name
    pictures = EventAccumulator(str(next(folder.glob("events*"))), {"images": 0}).Reload()
    assert {"Eval Images/img", "Eval Images/inverse_depth", "Eval Clips/re-rendered"} <= set(pictures.Tags()["images"])
    film = pictures.Images("Eval Clips/re-rendered")[0]
    assert film.encoded_image_string.startswith(b"GIF89a")
    assert (film.width, film.height) == (48, 54)
    exported = read_checkpoint(folder / "flowcam.pt")
    assert (exported.step, exported.long_side) == (4, 48)
    ours, theirs = pipeline.pretrain.network.state_dict(), exported.build().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(data: Path, tmp_path: Path) -> None:
    whole = small_run(data, tmp_path / "whole", steps=4)
    first = small_run(data, tmp_path / "first", steps=2)
    for config in (whole, first):
        run(config)
    second = small_run(data, tmp_path / "second", steps=2)
    second.load_dir = first.get_checkpoint_dir()
    run(second)
    assert read_checkpoint(second.get_base_dir() / "flowcam.pt").step == 4
    losses = [scalars(config.get_base_dir())["Train Loss"] for config in (whole, first, second)]
    assert losses[1] + losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_training_can_start_from_a_checkpoint_file(data: Path, tmp_path: Path) -> None:
    config = small_run(data, tmp_path / "first", steps=1)
    run(config)
    start = config.get_base_dir() / "flowcam.pt"
    again = copy.deepcopy(config)
    assert isinstance(again.pipeline, PretrainPipelineConfig)
    again.pipeline.start_from, again.pipeline.model.layers = start, NetworkConfig()
    again.set_timestamp()
    assert again.pipeline.model.layers == read_checkpoint(start).layers
    pipeline = again.pipeline.setup(device="cpu")
    assert isinstance(pipeline, PretrainPipeline)
    trained = read_checkpoint(start).build().state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in pipeline.pretrain.network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": None}, "no input given"),
        ({"data": Path("/nowhere")}, "does not exist"),
        ({"vis": "viewer"}, "--vis tensorboard"),
        ({"frame_skip": (3, 1)}, "frame-skip"),
        ({"clip_length": 1}, "two frames"),
        ({"keep_shape": True}, "one by one"),
        ({"machine": MachineConfig(num_devices=99, device_type="cuda")}, "GPUs were found"),
        ({"machine": MachineConfig(num_machines=2, device_type="cpu")}, "need CUDA"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    config = copy.deepcopy(flowcam_pretrain_method.config)
    assert isinstance(config.pipeline, PretrainPipelineConfig)
    config.output_dir, config.pipeline.datamanager.data = tmp_path / "out", data
    for name, value in change.items():
        for owner in (config, config.pipeline.datamanager, config.pipeline.datamanager.clips):
            if hasattr(owner, name):
                setattr(owner, name, value)
    with pytest.raises(SystemExit) as end:
        config.set_timestamp()
    assert end.value.code == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_papers_numbers_are_the_defaults() -> None:
    config = flowcam_pretrain_method.config
    assert isinstance(config.pipeline, PretrainPipelineConfig)
    clips, model = config.pipeline.datamanager.clips, config.pipeline.model
    assert (clips.height, clips.width, clips.clip_length, clips.clips_per_batch) == (128, 128, 8, 2)
    assert (clips.context_rays, clips.target_rays) == (1024, 1024)
    assert config.optimizers["network"]["optimizer"].lr == 1e-4
    assert model.layers == NetworkConfig()
    assert model.losses == NetworkLossConfig.published()
    assert (model.losses.rgb_weight, model.losses.context_rgb_weight) == (200, 100)


@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_learns_from_twice_the_batch(data: Path, tmp_path: Path) -> None:
    one = small_run(data, tmp_path / "one", steps=5, clips_per_batch=2)
    two = small_run(data, tmp_path / "two", steps=5)
    for config in (one, two):
        assert isinstance(config.pipeline, PretrainPipelineConfig)
        config.pipeline.start_from = same_start(tmp_path, config)
        config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 100
    run(one)
    two.machine.num_devices = 2
    main(two)
    assert "num_devices: 2" in (two.get_base_dir() / "config.yml").read_text()
    assert len(list(two.get_checkpoint_dir().iterdir())) == 1
    alone, together = (read_checkpoint(config.get_base_dir() / "flowcam.pt") for config in (one, two))
    assert together.step == 5
    for name, tensor in alone.network.items():
        assert torch.allclose(together.network[name], tensor, atol=1e-4), name
    # What a process logs is the loss of its own half; that of the same clips, with the weights both ended with, agrees.
    losses = [loss_of(config, checkpoint_of(config)) for config in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def same_start(folder: Path, config: PretrainTrainerConfig) -> Path:
    from flowcam_ns.model.checkpoint import write_checkpoint
    from flowcam_ns.model.flowcam_network import FlowCamNetwork

    assert isinstance(config.pipeline, PretrainPipelineConfig)
    path = folder / "start.pt"
    if not path.exists():
        torch.manual_seed(0)
        write_checkpoint(path, FlowCamNetwork(config.pipeline.model.layers), long_side=48)
    return path


def checkpoint_of(config: PretrainTrainerConfig) -> dict[str, torch.Tensor]:
    (path,) = config.get_checkpoint_dir().iterdir()
    return torch.load(path, weights_only=True)["pipeline"]


def loss_of(config: PretrainTrainerConfig, state: dict[str, torch.Tensor]) -> float:
    pipeline = config.pipeline.setup(device="cpu")
    assert isinstance(pipeline, PretrainPipeline)
    pipeline.load_pipeline(state, 4)
    pipeline.datamanager.train_clips.config.clips_per_batch = 2
    _, losses, _ = pipeline.get_train_loss_dict(5)
    return float(sum(loss.detach() for loss in losses.values()))


@pytest.mark.timeout(300)
def test_a_process_that_dies_ends_the_others_at_once(data: Path, tmp_path: Path) -> None:
    config = small_run(data, tmp_path, steps=100_000)
    errors: list[FlowCamError] = []

    def train() -> None:
        try:
            train_on_cpu(config, 2)
        except FlowCamError as error:
            errors.append(error)

    running = threading.Thread(target=train)
    before = set(multiprocessing.active_children())
    running.start()
    while not list(config.get_base_dir().glob("events*")):
        assert running.is_alive()
        time.sleep(0.2)
    processes = sorted(set(multiprocessing.active_children()) - before, key=lambda process: process.pid or 0)
    assert len(processes) == 2
    processes[1].kill()
    killed = time.monotonic()
    running.join(60)
    assert not running.is_alive(), "the other process was left waiting"
    assert time.monotonic() - killed < 60
    assert "of 2 died" in str(errors[0])
    assert not any(process.is_alive() for process in processes)
    assert not list(config.get_base_dir().glob("**/*.partial"))
