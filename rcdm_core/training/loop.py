"""The training loop (paper, section 3): noise an image, let the network say what was added, given h."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rcdm_core import randomness
from rcdm_core.bundle import BundleConfig, Contents, read, save
from rcdm_core.diffusion import Diffusion
from rcdm_core.errors import RCDMError, SampleNotFinite
from rcdm_core.interrupt import sigterm_as_ctrl_c
from rcdm_core.memory import explain_shortage, keep_freed_memory, require_memory
from rcdm_core.model import RCDM
from rcdm_core.precision import computing_in, resolve_device, resolve_precision
from rcdm_core.presets import PRESETS
from rcdm_core.progress import Reporter, in_round_words, showing
from rcdm_core.representations.reading import reading_threads
from rcdm_core.training.batches import Batch, Batches
from rcdm_core.training.batchnorm import recompute_statistics
from rcdm_core.training.config import TrainConfig, learning_rate, step_told
from rcdm_core.training.ema import EMA
from rcdm_core.training.health import first_broken, keeping_buffers, remembered_buffers, verdict
from rcdm_core.training.interrupt import StopRequests
from rcdm_core.training.log import Log
from rcdm_core.training.optimizers import make_optimizers
from rcdm_core.training.pixels import PixelReader
from rcdm_core.training.preview import write_preview
from rcdm_core.training.setup import Setup, claimed, completed, list_skipped, remarks, set_up
from rcdm_core.training.state import Counters, save_state
from rcdm_core.unet import UNet
from rcdm_core.versions import versions

LOG_EVERY = 10
GIVE_UP_AFTER = 5  # steps in a row whose loss or gradient is not finite
STATISTICS_BATCHES = 20
PREVIEW_ROWS, PREVIEW_SAMPLES, PREVIEW_STEPS = 8, 6, 10


def train(config: TrainConfig, progress: Reporter | None = None) -> Path:
    """Train an RCDM, or go on with one, and return the folder of its bundle.

    Ctrl-C or SIGTERM saves after the step under way and returns as well; `Reporter.log` says how to go on. Before the
    first step there is nothing to save, and KeyboardInterrupt is raised.

    On a CPU, in float32 and with one number of threads, a run that was stopped and resumed ends with the same bits.

    Raises RCDMError for bad arguments or data, a folder that is in use, a full disk (the last state stays whole), and
    when the loss was not finite for five steps in a row, or the weights at the end are no good (the last good state is
    named; a broken one never takes its place, see `health`).
    """
    return train_or_stop(config, progress)[0]


def train_or_stop(config: TrainConfig, progress: Reporter | None = None) -> tuple[Path, bool]:
    """`train`, and whether it was asked to stop: who has more to do then stops, even where this run is finished."""
    keep_freed_memory()
    reporter = progress or Reporter()
    device = resolve_device(config.device)
    with claimed(config), showing(reporter):
        return _train(config, device, reporter)


def _train(config: TrainConfig, device: torch.device, reporter: Reporter) -> tuple[Path, bool]:
    """`train_or_stop` in a folder that is this process's alone."""
    asked, config = config, completed(config)
    size, recipe = int(PRESETS[config.preset].unet["image_size"]), config.recipe()
    images = recipe.batch_size
    what = f"A step of --batch-size {images} and --accumulate {recipe.accumulate}"
    remedy = "give a smaller --batch-size, or split it into more parts with --accumulate"
    # Pictures and noise; how much the network takes shows when it runs.
    require_memory(2 * images * 3 * size**2 * 4, what, remedy)
    with sigterm_as_ctrl_c():
        setup = set_up(config, device, reporter)
    for line in remarks(asked, config, setup.saved):
        reporter.log(line)
    reader = PixelReader(setup.dataset, setup.train_rows, reading_threads())
    try:
        # Dropout is seeded for each step; the caller's generators are none of our business.
        gpu = [] if device.type != "cuda" else [torch.cuda.current_device() if device.index is None else device.index]
        with explain_shortage(what, remedy), torch.random.fork_rng(gpu):
            trainer = Trainer(config, setup, device, reader, reporter)
            stopped = trainer.run(tell_time=asked.steps is None and not config.minutes)
    finally:
        reader.close()
    for line in list_skipped(setup.run, setup.dataset.source):
        reporter.log(line)
    return setup.run, stopped


class Trainer:
    """One run: network, optimizer, EMA and counters, and what is done with them."""

    def __init__(
        self, config: TrainConfig, setup: Setup, device: torch.device, reader: PixelReader, reporter: Reporter
    ) -> None:
        self.config, self.setup, self.device, self.reader, self.reporter = config, setup, device, reader, reporter
        self.recipe = config.recipe()
        self.precision = resolve_precision(config.precision_or_auto, device)
        preset = PRESETS[config.preset]
        self.diffusion = Diffusion(preset.diffusion)
        self._of_halved = Diffusion(preset.diffusion, averaged=4)
        torch.manual_seed(randomness.torch_seed(config.seed, "weights"))
        self.network = UNet(preset.unet_config(setup.conditioning, h_dim=setup.provider.dim))
        if setup.conditioning != "none":
            self.network.set_h_statistics(setup.h_mean, setup.h_std)
        self.network.to(device).train()
        self.parameters = list(self.network.parameters())
        self.optimizers = make_optimizers(self.network, self.recipe, device)
        self.ema = EMA(self.network, self.recipe.ema)
        self.counters = Counters()
        if setup.saved is not None:
            setup.saved.restore(self.network, self.ema, self.optimizers)
            self.counters = replace(setup.saved.counters)
        self.log = Log(setup.run / "log.jsonl", self.counters.log_bytes)
        self._last_save = self._last_preview = self.counters.step
        self._save_again = self.counters.step + config.save_every  # the step after which it is due
        self._trouble: str | None = None    # why the last attempt to save was not gone through with
        self._started = time.monotonic()
        self._before = self.counters.seconds
        self._step_began = self._started

    # the loop

    def run(self, tell_time: bool = False) -> bool:
        """All steps that are left; returns whether it was asked to stop, be it in the last one.

        tell_time: say after the first few steps how long the others are going to take.
        """
        if self._finished():
            if self._steps_of_bundle() != {self.counters.step}:  # the run was killed between state and bundle, or in it
                self._recompute_statistics()
                self._save_bundle()
            self.reporter.log(f"{self.setup.run} is finished: {self.counters.step} steps. More --steps go on with it.")
            self._tell_halved()
            return False
        self._try_whole_pictures()
        batches = self._batches("train")
        total, unit = (self.config.steps, "step") if self.config.steps else (60 * (self.config.minutes or 0), "s")
        first = self.counters.step
        self.reporter.start(total, "training", unit, done=first if self.config.steps else self.counters.seconds)
        steps = range(first, self.config.steps or 2**62)
        self._step_began = begun = time.monotonic()
        with StopRequests(self._tell_stopping) as stop, contextlib.closing(batches.prefetched(steps)) as upcoming:
            for batch in upcoming:
                self._step(batch)
                left = len(steps) - LOG_EVERY
                if tell_time and self.counters.step == first + LOG_EVERY and left > 0:
                    seconds = left * (time.monotonic() - begun) / LOG_EVERY
                    halved = self.counters.step < self.recipe.half_size
                    later = "; those with whole pictures, up to twice that" if halved else ""
                    self.reporter.log(
                        f"At the current rate, the other {left} steps take {in_round_words(seconds)}{later}."
                    )
                if stop.requested or self._finished():
                    break
                # Not while steps are being skipped: what is kept should be from before the trouble began.
                if self.counters.in_a_row == 0 and self.counters.step >= self._save_again:
                    self.save()
            if not self.save(preview=not stop.requested):
                raise self._failure(f"After step {self.counters.step} {self._trouble}")
        self.reporter.finish()
        if skipped := self.counters.skipped:
            self.reporter.log(
                f"{skipped} of the {self.counters.step} steps {'was' if skipped == 1 else 'were'} skipped, because the "
                "loss or its gradient was not finite."
            )
        self._tell_halved()
        if stop.requested and not self._finished():
            self.reporter.log(
                f"Stopped and saved after step {self.counters.step}; the same command with --resume goes on."
            )
        return stop.requested

    def _tell_halved(self) -> None:
        if 0 < self.counters.step <= self.recipe.half_size:
            self.reporter.log(
                f"All of the {self.counters.step} steps saw pictures of half the size, and samples of this model are "
                "worth nothing before some see whole ones: go on with --resume and more --steps or --minutes."
            )

    def _try_whole_pictures(self) -> None:
        """One gradient at the whole size, which takes more memory than the halved ones before it: if there is not
        enough, that is better known now than when these are over. Leaves no trace."""
        if self.counters.step < self.recipe.half_size:
            self._seed_dropout()
            with keeping_buffers(self.network):
                self._gradient(self._batches("train")(self.recipe.half_size))
            self.network.zero_grad(set_to_none=True)

    def _tell_stopping(self) -> None:
        kept = f"what was saved after step {self._last_save}" if self._last_save else "nothing saved"
        self.reporter.log(f"Stopping after this step, and saving; a second Ctrl-C ends at once, with {kept}.")

    def _steps_of_bundle(self) -> set[int | None]:
        """What its two files say, of which one is written after the other."""
        found: set[int | None] = set()
        for step in (lambda: read(self.setup.run)[0].step, lambda: step_told(self.setup.run)):
            try:
                found.add(step())
            except (RCDMError, OSError, ValueError, KeyError):
                found.add(None)
        return found

    def _finished(self) -> bool:
        return self.config.reached(self.counters.step, self.counters.seconds)

    def _step(self, batch: Batch) -> None:
        """One update of the weights, or none where loss or gradient is not finite.

        The time of a step goes from the end of the one before to its own: waiting for data counts, saving does not.
        """
        done = self.counters
        lr = learning_rate(self.recipe, done.step, self.config.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["share"]
        self._seed_dropout()
        put_back = remembered_buffers(self.network)
        numbers = self._gradient(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or math.inf))
        done.step += 1
        images = len(batch.t)
        done.images_seen += images
        if math.isfinite(norm) and math.isfinite(numbers["loss"]):
            for optimizer in self.optimizers:
                optimizer.step()
            self.ema.update(done.step)
            done.in_a_row = 0
        else:
            put_back()
            done.skipped += 1
            done.in_a_row += 1
        now, earlier = time.monotonic(), done.seconds
        took, self._step_began = now - self._step_began, now
        done.seconds = self._before + now - self._started
        self.log.add({**numbers, "lr": lr, "grad_norm": norm, "seconds_per_step": took, "images_per_step": images})
        shown = {"loss": numbers["loss"], "images_per_second": images / max(took, 1e-9)}
        if self.config.steps:
            self.reporter.update(1, **shown)
        else:
            self.reporter.update(done.seconds - earlier, step=done.step, **shown)
        if done.step % LOG_EVERY == 0:
            self._write_log()
        if done.in_a_row == GIVE_UP_AFTER:
            broken = f"The loss or its gradient was not finite for {GIVE_UP_AFTER} steps in a row"
            raise self._failure(f"{broken}, up to step {done.step}")

    def _seed_dropout(self) -> None:
        torch.manual_seed(randomness.torch_seed(self.config.seed, "dropout", self.counters.step))

    def _gradient(self, batch: Batch) -> dict[str, float]:
        """Accumulate the gradient over the batch's parts; returns the means of the losses."""
        self.network.zero_grad(set_to_none=True)
        return self._mean_losses(self.network, batch, lambda loss: loss.backward())

    def _mean_losses(
        self, network: UNet, batch: Batch, then: Callable[[Tensor], object] = lambda loss: None
    ) -> dict[str, float]:
        """Means of the losses over the batch's parts; `then` is called with every part's share of the loss."""
        sums: dict[str, Tensor] = {}
        for part in batch.parts(self.recipe.accumulate):
            losses = self._losses(network, part.to(self.device))
            then(losses["loss"].mean() / self.recipe.accumulate)
            for name, values in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + values.detach().mean()
        return {name: float(value) / self.recipe.accumulate for name, value in sums.items()}

    def _losses(self, network: UNet, batch: Batch) -> dict[str, Tensor]:
        halved = batch.x0.shape[-1] < network.config.image_size
        diffusion = self._of_halved if halved else self.diffusion
        x_t = diffusion.q_sample(batch.x0, batch.t, batch.noise)
        output = self._predict(network, x_t, batch)
        return diffusion.losses(output, batch.x0, x_t, batch.t, batch.noise)

    def _predict(self, network: UNet, x_t: Tensor, batch: Batch) -> Tensor:
        with computing_in(self.precision, self.device):
            return network(x_t, batch.t, batch.h if self.setup.conditioning != "none" else None)

    def _batches(self, purpose: str) -> Batches:
        return Batches(
            self.setup.dataset,
            self.setup.train_rows,
            self.reader,
            batch_size=self.recipe.batch_size,
            timesteps=self.diffusion.config.steps,
            seed=self.config.seed,
            flip=self.config.flip,
            half_size=self.recipe.half_size if purpose == "train" else 0,
            purpose=purpose,
        )

    def _failure(self, what: str) -> RCDMError:
        return RCDMError(f"{what}; {self._kept()}; try a lower --lr, --precision float32, or --clip 1.")

    def _kept(self) -> str:
        if self._last_save:
            return f"the last good state is that of step {self._last_save} in {self.setup.run / 'training'}"
        return "nothing had been saved before"

    def _find_trouble(self) -> str | None:
        """Why what would be saved now is no good; None when it is. Leaves no trace in what it looks at.

        The next batch is tried: the weights by the step that comes next, its gradient included, and the averaged ones.
        One that is not finite may be the batch's fault, whose step would be skipped: only as many of them in a row as
        end a run are the weights'.
        """
        states = (value for one in self.optimizers for state in one.state.values() for value in state.values())
        network, average = "the weights", "the averaged weights"
        parts = {
            network: self.network.state_dict().values(),
            average: self.ema.network.state_dict().values(),
            "the optimizer's averages": (value for value in states if isinstance(value, Tensor)),
        }
        if (broken := first_broken(parts)) is not None:
            return broken
        trouble = None
        for ahead in range(GIVE_UP_AFTER):
            batch = self._batches("train")(self.counters.step + ahead)
            self._seed_dropout()
            with keeping_buffers(self.network):
                losses = self._gradient(batch)
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, math.inf))
            self.network.zero_grad(set_to_none=True)
            with torch.no_grad():
                averaged = self._mean_losses(self.ema.network, batch)
            trouble = verdict(network, losses, norm) or verdict(average, averaged)
            if all(map(math.isfinite, (losses["loss"], norm, averaged["loss"]))):
                break
        return trouble

    # what is written on the way

    def save(self, preview: bool = True) -> bool:
        """State, then bundle, then preview: a crash in between leaves the older of what comes later.

        Nothing is written, the reason is told once, and False returned, while the weights are no good.
        """
        self._recompute_statistics()
        before, self._trouble = self._trouble, self._find_trouble()
        if self._trouble is not None:
            if before is None:
                self.reporter.log(f"Not saved after step {self.counters.step}: {self._trouble}; {self._kept()}.")
            self._save_again = self.counters.step + LOG_EVERY
        else:
            self._save(preview)
            self._save_again = self.counters.step + self.config.save_every
        self._step_began = time.monotonic()
        return self._trouble is None

    def _save(self, preview: bool) -> None:
        if self.counters.step % LOG_EVERY:
            self._write_log()
        setup = self.setup
        self.counters.log_bytes = (setup.run / "log.jsonl").stat().st_size
        parts = (self.network, self.ema, self.optimizers, self.counters)
        save_state(setup.run, *parts, setup.identity, setup.encoder_tensors())
        self._last_save = self.counters.step
        model = self._save_bundle()
        every = self.config.preview_every
        since = self.counters.step - self._last_preview
        due = every is None or (every > 0 and (since >= every or self._finished()))
        if preview and due and self.counters.step > self.recipe.half_size:
            self._preview(model)
            self._last_preview = self.counters.step

    def _write_log(self) -> None:
        done = self.counters
        means = self.log.means()
        rate = means.get("images_per_step", 0.0) / max(means.get("seconds_per_step", math.inf), 1e-9)
        self.log.write(
            {"step": done.step, "seconds": round(done.seconds, 3), "images_per_second": rate, "skipped": done.skipped}
        )

    def _save_bundle(self) -> RCDM:
        """The averaged weights, with batch-norm statistics of their own (`_recompute_statistics`), as a bundle."""
        setup, done = self.setup, self.counters
        contents = Contents(
            unet=self.ema.network.state_dict(),
            h_mean=setup.h_mean,
            h_std=setup.h_std,
            fingerprint_h=setup.fingerprint.h,
            train_ids=setup.train_ids,
        )
        config = BundleConfig(
            unet=self.network.config,
            diffusion=self.diffusion.config,
            provider=setup.provider,
            data=setup.data,
            preset=self.config.preset,
            step=done.step,
            images_seen=done.images_seen,
            seconds=round(done.seconds, 3),
            seed=self.config.seed,
            arguments=self.config.to_dict(),
            versions=versions(),
            recipe=self.recipe.to_dict(),
            changes=setup.identity["changes"],
            licence=setup.provider.licence,
            representations=setup.representations,
        )
        save(setup.run, config, contents)
        return RCDM(config, contents, path=setup.run, unet=self.ema.network)

    def _recompute_statistics(self) -> None:
        recompute_statistics(self.ema.network, self._statistics_batches())

    def _statistics_batches(self) -> list[Callable[[], object]]:
        batches = self._batches("batch norm")

        def run(number: int) -> None:
            for part in batches(number).parts(self.recipe.accumulate):
                batch = part.to(self.device)
                self._predict(self.ema.network, self.diffusion.q_sample(batch.x0, batch.t, batch.noise), batch)

        return [functools.partial(run, number) for number in range(STATISTICS_BATCHES)]

    def _preview(self, model: RCDM) -> None:
        rows = (self.setup.held_out_rows if len(self.setup.held_out_rows) else self.setup.train_rows)[:PREVIEW_ROWS]
        pixels, rows = self.reader(rows)
        real = torch.from_numpy(pixels).float() / 255
        h = torch.from_numpy(self.setup.dataset.h[rows][:, 0])
        try:
            samples = model.sample(
                h, PREVIEW_SAMPLES, seed=self.config.seed, steps=PREVIEW_STEPS, precision=self.config.precision_or_auto
            )
        except SampleNotFinite:  # a picture to look at is no reason to end a training
            self.reporter.log(f"No preview after step {self.counters.step}: it has samples that are not finite.")
            return
        write_preview(self.setup.run / "preview.png", real, samples)
