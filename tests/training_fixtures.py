"""A network of 8 x 8 pixels, folders of small pictures and encoders as files: what the tests of training share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rcdm_core.diffusion import DiffusionConfig
from rcdm_core.presets import PRESETS, Preset
from rcdm_core.progress import Reporter
from rcdm_core.training import TrainConfig
from rcdm_core.training.loop import Trainer
from rcdm_core.training.pixels import PixelReader
from rcdm_core.training.setup import set_up

Make = Callable[..., TrainConfig]  # what the fixture `arguments` is
CPU = torch.device("cpu")

# The smallest U-Net that takes the pictures of `Shapes`.
SMALL_UNET = {
    "image_size": 16,
    "model_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": (1,),
    "attention_resolutions": (),
}
ENCODER = """
import torch
from torch import nn

def build():
    torch.manual_seed({seed})
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, {dim}))
"""


def results(run: Path) -> dict[str, bytes]:
    """Every number that a run ends with: its bundle's tensors and its state's."""
    folder = run / "training" / (run / "training" / "latest").read_text().strip()
    files = [run / "model.safetensors", *folder.glob("*.safetensors")]
    return {
        f"{file.name}:{name}": value.numpy().tobytes() for file in files for name, value in load_file(file).items()
    }


class Recorder(Reporter):
    """Remembers what it is told, and calls `on_update(number of updates so far)`."""

    def __init__(self, on_update: Callable[[int], object] | None = None) -> None:
        self.lines: list[str] = []
        self.started: list[tuple[float | None, str, float]] = []
        self.updates = 0
        self.on_update = on_update

    def start(self, total: float | None, description: str, unit: str = "it", done: float = 0) -> None:
        self.started.append((total, description, done))

    def update(self, advance: float = 1, **numbers: float) -> None:
        if "loss" in numbers:
            self.updates += 1
            if self.on_update:
                self.on_update(self.updates)

    def log(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are slower with more, by far where other work competes for the processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a preset whose steps take milliseconds."""
    unet = {
        "image_size": 8,
        "model_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": (1, 1),
        "attention_resolutions": (4,),
    }
    preset = Preset("micro", "for tests", unet, DiffusionConfig(), batch_size=8, steps=15, lr=1e-3, warmup=2)
    monkeypatch.setitem(PRESETS, "micro", preset)
    return "micro"


def write_encoder(path: Path, seed: int = 0, dim: int = 5) -> str:
    """Write a `custom` provider with 8 x 8 input and return its name."""
    path.write_text(ENCODER.format(seed=seed, dim=dim))
    return f"custom:{path}:build"


def write_images(folder: Path, count: int, size: tuple[int, int] = (12, 9), seed: int = 0) -> Path:
    """PNG files 000.png, 001.png, ... of smooth random colours."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(seed)
    for number in range(count):
        small = random.randint(0, 256, (3, 4, 3)).astype(np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def arguments(micro: str, tmp_path: Path) -> Make:
    """Makes a TrainConfig of a small, quick run in `tmp_path`."""
    provider = write_encoder(tmp_path / "encoder.py")
    data = write_images(tmp_path / "images", 40)

    def make(**changes: object) -> TrainConfig:
        values: dict[str, object] = {
            "provider": provider,
            "provider_options": {"image_size": 8},
            "data": str(data),
            "out": tmp_path / "run",
            "preset": micro,
            "steps": 6,
            "device": "cpu",
            "precision": "float32",
            "preview_every": 0,
            "cache": tmp_path / "cache",
        }
        return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]

    return make


def make_trainer(config: TrainConfig, reporter: Reporter | None = None) -> Trainer:
    """A training that is set up and has made no step."""
    setup = set_up(config, CPU, Reporter())
    reader = PixelReader(setup.dataset, setup.train_rows, threads=1)
    return Trainer(config, setup, CPU, reader, reporter or Reporter())
