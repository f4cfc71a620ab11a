"""The loop and its parts: what a step sees, what it does, and what is written on the way."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_fixtures import CPU, Make, Recorder, make_trainer, write_encoder

import rcdm_core as rcdm
from rcdm_core import bundle
from rcdm_core.conditioning import ConditionalBatchNorm
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.presets import PRESETS
from rcdm_core.progress import Reporter
from rcdm_core.training import TrainConfig, stopped, train
from rcdm_core.training.batchnorm import recompute_statistics
from rcdm_core.training.config import default_held_out, learning_rate
from rcdm_core.training.ema import EMA
from rcdm_core.training.loop import Trainer
from rcdm_core.training.pixels import PixelReader
from rcdm_core.training.setup import list_skipped, set_up
from rcdm_core.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


# the whole


def test_a_run_leaves_a_bundle_a_log_and_a_preview(arguments: Make, tmp_path: Path) -> None:
    recorder = Recorder()
    run = train(arguments(steps=23, save_every=10, preview_every=None, held_out=5), recorder)
    assert run == tmp_path / "run" and recorder.updates == 23 and recorder.lines == []
    model = rcdm.load(run)
    config = model.config
    assert (config.step, config.images_seen, config.preset) == (23, 184, "micro")
    assert config.data is not None and config.data.train_count == 35 and len(config.data.held_out) == 5
    assert not any(model.trained_on(name) for name in config.data.held_out)
    assert config.unet.conditioning == "batchnorm" and config.provider.distribution == "rcdm"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 23]
    assert set(lines[0]) >= {"loss", "mse", "lr", "grad_norm", "images_per_second", "skipped", "seconds"}
    preview = Image.open(run / "preview.png")
    columns, rows = 1 + 6, 5
    assert preview.width >= columns * 64 and preview.height >= rows * 64
    assert sorted(file.name for file in (run / "training").iterdir()) == ["latest", "lock", "state-00000023"]


def test_a_relative_cache_is_found_from_everywhere(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert arguments(cache="somewhere").complete().cache == str(tmp_path / "somewhere")


@pytest.mark.parametrize(("every", "drawn"), [(None, [2, 4, 5]), (3, [4, 5]), (100, [5]), (0, [])])
def test_previews_are_drawn_at_the_next_save_and_at_the_end(
    every: int | None, drawn: list[int], arguments: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Trainer, "_preview", lambda self, model: steps.append(self.counters.step))
    train(arguments(steps=5, save_every=2, preview_every=every))
    assert steps == drawn


def test_the_home_folder_is_expanded_in_data(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in --data=~/images, which a shell leaves as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rcdm.load(train(arguments(steps=1, data="~/images"))).config.step == 1
    with pytest.raises(RCDMError, match="in the folder of pictures"):
        train(arguments(steps=1, data="~/images", out=tmp_path / "images" / "run"))


def test_samples_follow_h_after_a_short_training(arguments: Make, tmp_path: Path) -> None:
    """Pictures of one flat colour, h is the colour: the samples' colours must go with it."""
    folder = tmp_path / "flat"
    folder.mkdir()
    colours = np.random.RandomState(0).randint(30, 226, (64, 3))
    for number, colour in enumerate(colours):
        Image.new("RGB", (8, 8), tuple(map(int, colour))).save(folder / f"{number}.png")
    (tmp_path / "colour.py").write_text("import torch\ndef build():\n    return Mean()\nclass Mean(torch.nn.Module):\n"
                                        "    def forward(self, x):\n        return x.mean((2, 3))\n")  # fmt: skip
    config = arguments(provider=f"custom:{tmp_path / 'colour.py'}:build", data=str(folder), steps=120, lr=3e-3, ema=0.9)
    model = rcdm.load(train(config))
    h = model.encode_files([folder / f"{number}.png" for number in range(32)])
    samples = model.sample(h, streams=range(32), steps=8)[:, 0].mean((2, 3))
    for channel in range(3):
        correlation = np.corrcoef(samples[:, channel], colours[:32, channel])[0, 1]
        assert correlation > 0.7, f"channel {channel}: {correlation:.2f}"


@pytest.mark.parametrize("conditioning", ["embedding", "batchnorm"])
def test_learned_variance_and_both_conditionings_train(
    arguments: Make, monkeypatch: pytest.MonkeyPatch, conditioning: str
) -> None:

    from rcdm_core.diffusion import DiffusionConfig

    adm = DiffusionConfig(schedule="linear", prediction="epsilon", variance="learned_range")
    monkeypatch.setitem(PRESETS, "micro", replace(PRESETS["micro"], diffusion=adm))
    run = train(arguments(conditioning=conditioning, precision="bf16"))
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert math.isclose(line["loss"], line["mse"] + line["vb"], rel_tol=1e-5)
    assert rcdm.load(run).config.unet.conditioning == conditioning


def test_bf16_is_that_of_the_convolutions_alone(arguments: Make) -> None:
    """The time embedding, the loss, the weights and their average stay in float32."""
    trainer = make_trainer(arguments(precision="bf16", conditioning="embedding"))
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> None:
        module = trainer.network.get_submodule(name)
        module.register_forward_hook(lambda _module, _inputs, output: seen.update({name: output.dtype}))

    for name in ("input_blocks.0.0", "time_embed", "ssl_emb", "out.2"):
        watch(name)
    batch = trainer._batches("train")(0)
    losses = trainer._losses(trainer.network, batch)
    half, full = torch.bfloat16, torch.float32
    assert seen == {"time_embed": full, "ssl_emb": full, "input_blocks.0.0": half, "out.2": half}
    trainer._step(batch)
    assert {value.dtype for value in losses.values()} == {full}
    assert {p.dtype for network in (trainer.network, trainer.ema.network) for p in network.parameters()} == {full}


def test_the_unconditional_model(arguments: Make) -> None:
    run = train(arguments(provider="none", provider_options={}))
    model = rcdm.load(run)
    assert model.config.unet.conditioning == "none" and model.h_dim == 0
    assert model.sample(None, 2, steps=2).shape == (1, 2, 3, 8, 8)


def test_unreadable_pictures_are_told_and_listed(arguments: Make, tmp_path: Path) -> None:
    (tmp_path / "images" / "text.png").write_text("no picture")
    recorder = Recorder()
    run = train(arguments(steps=2), recorder)
    assert "Skipped 1 pictures" in recorder.lines[-2] and "text.png: it is not an image" in recorder.lines[-1]
    assert (run / "skipped.txt").read_text().startswith("text.png: ")


def test_a_long_list_of_unreadable_pictures_is_cut_and_told_in_full_in_the_file(tmp_path: Path) -> None:
    source = Shapes(30)
    for index in range(25):
        source.report_unreadable(index, "it is empty")
    told = list_skipped(tmp_path, source)
    assert len(told) == 1 + 20 + 1 and told[-1] == "  and 5 more"
    assert len((tmp_path / "skipped.txt").read_text().splitlines()) == 25


def test_training_works_outside_the_main_thread(arguments: Make) -> None:
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(train, arguments(steps=1)).result()
    assert bundle.read(run)[0].step == 1


def test_minutes_end_a_run_without_steps(arguments: Make) -> None:
    run = train(arguments(steps=None, minutes=0.02))
    config = bundle.read(run)[0]
    assert config.step > 0 and config.seconds >= 1.2


def test_without_an_end_there_are_the_presets_steps(arguments: Make) -> None:
    recorder = Recorder()
    config = arguments(steps=None, minutes=None)
    run = train(config, recorder)
    assert bundle.read(run)[0].step == 15 and bundle.read(run)[0].arguments["steps"] == 15
    assert recorder.lines[0] == "Training for the 15 steps of preset micro; --steps or --minutes shorten that."
    assert recorder.lines[1].startswith("At the current rate, the other 5 steps take about ")
    assert len(recorder.lines) == 2 and not stopped(config, run)
    assert all(preset.steps > 1000 for name, preset in PRESETS.items() if name != "micro")


def test_minutes_alone_say_what_they_cost(arguments: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "micro", dataclasses.replace(PRESETS["micro"], lr_schedule="cosine"))
    recorder = Recorder()
    train(arguments(steps=None, minutes=0.001), recorder)
    assert recorder.lines == ["The learning rate stays constant with --minutes alone; --steps lets it decay to zero."]


def test_the_licence_of_the_encoders_weights_is_the_bundles(arguments: Make) -> None:
    setup = set_up(arguments(), CPU, Reporter())
    setup = dataclasses.replace(setup, provider=dataclasses.replace(setup.provider, licence="for research only"))
    reader = PixelReader(setup.dataset, setup.train_rows, threads=1)
    Trainer(arguments(), setup, CPU, reader, Reporter()).run()
    config = bundle.read(setup.run)[0]
    assert config.licence == config.provider.licence == "for research only"
    assert {"torch", "torchvision", "timm"} <= config.versions.keys()


# what a step does


def test_waiting_for_data_counts_as_time_of_a_step_and_saving_does_not(arguments: Make) -> None:
    trainer = make_trainer(arguments())
    batch = trainer._batches("train")(0)
    trainer._step(batch)
    trainer._write_log()
    time.sleep(0.5)  # for the second batch
    trainer._step(batch)
    assert 0.5 < trainer.log.means()["seconds_per_step"] < 2
    trainer._step_began -= 1000  # as if saving had begun long ago
    trainer.save(preview=False)
    trainer._step(batch)
    assert trainer.log.means()["seconds_per_step"] < 2


def test_parts_of_a_step_give_the_gradient_of_the_whole(arguments: Make) -> None:
    gradients = []
    for accumulate in (1, 4):
        trainer = make_trainer(arguments(conditioning="embedding", accumulate=accumulate))
        for parameter in trainer.network.parameters():  # beyond the zeroed layers of a fresh network
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
        numbers = trainer._gradient(trainer._batches("train")(0))
        gradients.append([parameter.grad for parameter in trainer.parameters] + [torch.tensor(numbers["loss"])])
    for one, four in zip(*gradients, strict=True):
        assert one is not None and four is not None and torch.allclose(one, four, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("conditioning", ["embedding", "batchnorm"])
def test_layers_that_read_h_learn_at_their_own_share(arguments: Make, conditioning: str) -> None:
    """Adam's first step moves every weight by the learning rate, whatever the size of its gradient."""
    trainer = make_trainer(arguments(conditioning=conditioning, h_lr=0.1, optimizer="adamw"))
    for parameter in trainer.network.parameters():  # beyond the zeroed layers of a fresh network
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    before = {name: parameter.detach().clone() for name, parameter in trainer.network.named_parameters()}
    trainer._step(trainer._batches("train")(0))
    rate = learning_rate(trainer.recipe, 0, 6)
    moved = {
        name: float((parameter.detach() - before[name]).abs().max()) / rate
        for name, parameter in trainer.network.named_parameters()
    }
    of_h = {name for name in moved if name.startswith(("ssl_emb", "h_reduce")) or ".gain." in name}
    if conditioning == "batchnorm":
        of_h |= {name for name in moved if name.replace(".gain.", ".bias.") in moved and ".bias." in name}
    norms = [module for module in trainer.network.modules() if isinstance(module, ConditionalBatchNorm)]
    assert len(of_h) == 2 + 4 * len(norms) and bool(norms) == (conditioning == "batchnorm")
    for name in of_h:
        assert moved[name] == pytest.approx(0.1, rel=0.02), name
    # A bias in front of a normalisation has no gradient to speak of, so that not all of the others move.
    others = [share for name, share in moved.items() if name not in of_h]
    assert max(others) <= 1.02 and sum(share > 0.98 for share in others) > len(others) / 2


def test_a_step_is_the_textbooks(arguments: Make) -> None:
    """AdamW without decay, with clipping and warm-up, written out in double precision for four steps."""
    trainer = make_trainer(arguments(clip=0.5, lr=1e-2))
    first, second = ([torch.zeros_like(p, dtype=torch.float64) for p in trainer.parameters] for _ in range(2))
    source = trainer._batches("train")
    for step in range(4):
        shadow = copy.deepcopy(trainer.network)
        loss = trainer._losses(shadow, source(step))["loss"].mean()
        gradient = [g.double() for g in torch.autograd.grad(loss, list(shadow.parameters()))]
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradient))
        lr = 1e-2 * min(1, (step + 1) / (trainer.recipe.warmup + 1))
        trainer._step(source(step))
        for i, (g, old, new) in enumerate(zip(gradient, shadow.parameters(), trainer.parameters, strict=True)):
            g = g * min(1, 0.5 / (norm + 1e-6))
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            m, v = first[i] / (1 - 0.9 ** (step + 1)), second[i] / (1 - 0.999 ** (step + 1))
            moved = (new.double() - old.double()) / lr
            # Where a gradient is all but zero its sign is rounding, and Adam makes a whole step of it.
            clear = v.sqrt() > 1e-5
            assert torch.allclose(moved[clear], -(m / (v.sqrt() + 1e-8))[clear], atol=2e-2)


def test_the_average_keeps_to_its_formula() -> None:
    network = UNet(PRESETS["tiny-32"].unet_config("none"))
    weight = network.time_embed[0].weight
    ema = EMA(network, 0.25)
    expected = weight.detach().clone()
    for step in range(1, 6):
        weight.data += step
        ema.update(step)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    assert torch.allclose(ema.network.time_embed[0].weight, expected, atol=1e-5)


def test_statistics_belong_to_the_averaged_weights(arguments: Make) -> None:
    """Against a forward hook that collects every input of every batch norm."""
    trainer = make_trainer(arguments())
    source = trainer._batches("train")
    for step in range(3):
        trainer._step(source(step))
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    torch.manual_seed(1)
    expected_next = torch.rand(1)
    torch.manual_seed(1)
    inputs: dict[torch.nn.Module, list[torch.Tensor]] = {}
    norms = [m for m in trainer.ema.network.modules() if isinstance(m, ConditionalBatchNorm)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, given: inputs.setdefault(module, []).append(given[0].double()))
    recompute_statistics(trainer.ema.network, trainer._statistics_batches())
    assert norms and all(len(found) == 20 for found in inputs.values())
    for norm in norms:
        means = torch.stack([x.mean((0, 2, 3)) for x in inputs[norm]]).mean(0)
        variances = torch.stack([x.var((0, 2, 3), unbiased=True) for x in inputs[norm]]).mean(0)
        assert torch.allclose(norm.stored_mean.double(), means, atol=1e-4)
        assert torch.allclose(norm.stored_var.double(), variances, rtol=1e-3, atol=1e-5)
    assert torch.equal(torch.rand(1), expected_next)
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())
    assert not trainer.ema.network.training and trainer.network.training


# the arguments


def test_learning_rates() -> None:
    constant = TrainConfig("x", steps=100, lr=2.0, warmup=3, lr_schedule="constant")
    assert [learning_rate(constant.recipe(), s, 100) for s in (0, 1, 3, 50, 99)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainConfig("x", steps=103, lr=2.0, warmup=3, lr_schedule="cosine").recipe()
    assert learning_rate(cosine, 1, 103) == 1.0
    assert math.isclose(learning_rate(cosine, 53, 103), 1.0) and learning_rate(cosine, 103, 103) < 1e-12
    values = [learning_rate(cosine, s, 103) for s in range(3, 104)]
    assert values == sorted(values, reverse=True)


def test_no_schedule_hangs_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setitem(PRESETS, "tiny-32", replace(PRESETS["tiny-32"], lr_schedule="cosine"))
    assert TrainConfig("x", steps=5).recipe().lr_schedule == "cosine"
    assert TrainConfig("x", minutes=5).recipe().lr_schedule == "constant"
    with pytest.raises(RCDMError, match=r"--lr-schedule cosine needs --steps"):
        TrainConfig("x", minutes=5, lr_schedule="cosine")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"steps": 0}, "--steps 0"),
        ({"minutes": float("nan")}, "--minutes nan"),
        ({"clip": float("nan")}, "--clip nan must be a number of at least 0"),
        ({"steps": 1, "preset": "huge"}, "--preset huge.*tiny-32"),
        ({"steps": 1, "conditioning": "film"}, "--conditioning film"),
        ({"steps": 1, "precision": "half"}, "--precision half"),
        ({"steps": 1, "fit": "stretch"}, "--fit stretch"),
        ({"steps": 1, "ema": 1.0}, "--ema 1.0"),
        ({"steps": 1, "lr": -1.0}, "--lr -1.0"),
        ({"steps": 1, "seed": -1}, "--seed -1"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(RCDMError, match=named):
        TrainConfig("x", **wrong)


def test_arguments_that_do_not_go_together(arguments: Make, tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match="--batch-size 8 cannot be split into --accumulate 3"):
        train(arguments(accumulate=3))
    with pytest.raises(RCDMError, match="--conditioning none does not go with --provider custom:"):
        train(arguments(conditioning="none"))
    with pytest.raises(RCDMError, match="--conditioning embedding does not go with --provider none"):
        train(arguments(provider="none", provider_options={}, conditioning="embedding"))
    with pytest.raises(RCDMError, match="wrong-name"):
        train(arguments(provider="wrong-name"))
    with pytest.raises(RCDMError, match="colour"):
        train(arguments(provider_options={"colour": "1"}))
    with pytest.raises(RCDMError, match="held-out"):
        train(arguments(held_out=40))


def test_a_folder_in_use_is_not_overwritten(arguments: Make) -> None:
    train(arguments(steps=1))
    with pytest.raises(RCDMError, match=r"already holds a training; go on with it by --resume"):
        train(arguments(steps=1))


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RCDMError, match=r"file is a file, and a folder is needed there.*--out"):
        train(arguments(out=tmp_path / "file" / "run"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(RCDMError, match=r"No permission to write .*elsewhere"):
        train(arguments(out=tmp_path / "elsewhere"))


def test_how_many_are_held_out_by_default() -> None:
    assert [default_held_out(count) for count in (1, 40, 5000, 10**6)] == [0, 4, 500, 512]


def test_where_a_run_is_put_by_default(arguments: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_encoder(tmp_path / "my_encoder.py")
    assert train(arguments(out=None, provider=name, steps=1)) == Path("runs/my_encoder.py-build")


def test_a_bundle_holds_the_average_and_statistics_of_noised_pictures(arguments: Make) -> None:
    trainer = make_trainer(arguments(ema=0.5))
    source, seen = trainer._batches("train"), []
    for step in range(3):
        trainer._step(source(step))
    hook = trainer.ema.network.register_forward_pre_hook(lambda _, given: seen.append(given))
    trainer._recompute_statistics()
    hook.remove()
    batch = trainer._batches("batch norm")(0)
    noised = trainer.diffusion.q_sample(batch.x0, batch.t, batch.noise)
    assert torch.equal(seen[0][0], noised) and torch.equal(seen[0][1], batch.t) and torch.equal(seen[0][2], batch.h)
    trainer.save(preview=False)
    stored = bundle.read(trainer.setup.run)[1].unet
    assert trainer.ema.decay == 0.5
    assert all(torch.equal(stored[name], value) for name, value in trainer.ema.state().items())
    assert any(not torch.equal(stored[name], value) for name, value in trainer.network.named_parameters())


def test_the_recipe_reaches_the_optimizers(arguments: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "micro", replace(PRESETS["micro"], betas=(0.9, 0.95)))
    trainer = make_trainer(arguments(steps=6, lr_schedule="cosine", weight_decay=0.3, optimizer="muon"))
    groups = [group for one in trainer.optimizers for group in one.param_groups]
    assert {group["weight_decay"] for group in groups} == {0.3}
    assert {group["betas"] for group in groups if "betas" in group} == {(0.9, 0.95)}
    for step in range(6):
        trainer._step(trainer._batches("train")(step))
        assert groups[0]["lr"] == learning_rate(trainer.recipe, step, 6)
    assert groups[0]["lr"] < 0.5 * trainer.recipe.lr
