"""A set's representations into one file: what `rcdm encode` does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rcdm_core.atomic import explain_failures, make_folder, refuse_dangling, sync_file, sync_folder
from rcdm_core.data.folder import is_called_picture
from rcdm_core.data.shapes import open_data
from rcdm_core.data.source import data_fingerprint
from rcdm_core.encoder import Fingerprint, compare_fingerprints, fingerprint, load_encoder
from rcdm_core.errors import RCDMError
from rcdm_core.locks import holding
from rcdm_core.memory import keep_freed_memory
from rcdm_core.out_folder import refuse_among_pictures
from rcdm_core.precision import resolve_device, resolve_precision
from rcdm_core.progress import Reporter
from rcdm_core.provider import Provider
from rcdm_core.provider_record import record_of
from rcdm_core.registry import find_provider
from rcdm_core.representations import file as representation_file
from rcdm_core.representations.encoding import BATCH_SIZE, BatchEncoder
from rcdm_core.representations.file import About, Representations
from rcdm_core.representations.journal import Journal
from rcdm_core.representations.reading import content_order, read_batches, reading_threads

if TYPE_CHECKING:
    from rcdm_core.data.source import ImageSource
    from rcdm_core.encoder import Encoder

_SHOWN = 20  # unreadable pictures; all of them are in the file


def encode(
    provider: str | Provider,
    data: str | Path,
    out: str | Path,
    *,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    fit: str = "crop",
    keep_duplicates: bool = False,
    flip: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> Representations:
    """Write the representations of a folder's pictures to a safetensors file (its layout: representations/file.py).

    An encoding that was stopped or killed is taken up again by the same call, and on a CPU, in float32 and with one
    number of threads, ends with the same bits. Memory does not grow with the number of pictures, but for their names.

    provider, weights, options  as for `load_encoder`
    data             a folder, or shapes[:N[:SEED]]
    out              the file; it gets this name when it is complete
    fit, keep_duplicates        as in training
    flip             h of the mirror images too, which a training that flips needs
    precision        float32, bf16, or auto: float32, because h outlives the run, is compared with others, and is
                     float32 everywhere else
    workers          threads that decode; None: as many as help on this machine

    Raises RCDMError for bad arguments or data, for an `out` that holds or is to hold something else, when over half of
    the pictures cannot be read, and for an h that is not finite.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise RCDMError(f"--batch-size {batch_size} and --workers {workers} must be at least 1.")
    keep_freed_memory()
    reporter, out, place = progress or Reporter(), Path(out), resolve_device(device)
    dtype = resolve_precision("float32" if precision == "auto" else precision, place)
    refuse_dangling(out)
    if out.is_dir():
        raise RCDMError(f"--out {out} is a folder; give the name of a file, such as {out / 'h.safetensors'}.")
    if out.exists() and not out.is_file():
        raise RCDMError(f"--out {out} is no ordinary file; give the name of one, such as h.safetensors.")
    found = find_provider(provider) if isinstance(provider, str) else provider
    name = provider if isinstance(provider, str) else provider.name
    complete = found.complete_options(options or {})
    if weights and "://" not in weights:
        weights = os.path.abspath(os.path.expanduser(weights))
    source = open_data(str(data), fit=fit, keep_duplicates=keep_duplicates)
    if is_called_picture(out):
        refuse_among_pictures(out, sets=[source.describe()])
    encoder = load_encoder(found, weights=weights, device=place, options=complete)
    if not encoder.dim:
        raise RCDMError(f"Provider {name} gives no h that could be written; choose another --provider.")
    mark = fingerprint(encoder)
    batch_encoder = BatchEncoder(encoder, mark, place, dtype)
    about = representation_file.about(
        record_of(name, found, weights, complete, encoder, mark),
        source,
        fit=fit,
        flip=flip,
        precision="float32" if dtype == torch.float32 else "bf16",
        deviation=batch_encoder.deviation(mark),
    )
    make_folder(out.parent)
    work = _Encoding(out, source, about, mark, batch_encoder, reporter)
    refusal = f"{out} is being written by another process; wait for it, or choose another --out."
    with holding(work.lock, refusal, passing=True):
        work.run(encoder, batch_size, workers or reading_threads())
    result = Representations(out)
    for line in (*_list_skipped(result), result.remark()):
        if line is not None:
            reporter.log(line)
    return result


class _Encoding:
    """One file in the making, and what is left of an earlier attempt at it."""

    def __init__(
        self,
        out: Path,
        source: ImageSource,
        about: About,
        mark: Fingerprint,
        encode: BatchEncoder,
        reporter: Reporter,
    ) -> None:
        self.out, self.source, self.about, self.mark, self.encode = out, source, about, mark, encode
        self.reporter = reporter
        self.order = content_order(source.ids)
        self.partial = out.with_name(f"{out.name}.partial")
        self.journal = Journal(out.with_name(f"{out.name}.partial.json"))
        self.lock = out.with_name(f"{out.name}.partial.lock")

    def run(self, encoder: Encoder, batch_size: int, workers: int) -> None:
        """Write what is missing of the file."""
        if self.out.exists():
            self._check_complete(Representations(self.out))
            self.journal.path.unlink(missing_ok=True)  # of a run that was killed right after the rename
            self.reporter.log(f"{self.out} is complete already.")
            return
        writer = representation_file.row_writer(self.partial, encoder.dim, self.about.flip, option="--out")
        self._begin()
        self.journal.go_on(writer)
        for at, reason in self.journal.unreadable.items():
            self.source.report_unreadable(int(self.order[at]), reason)
        if self.journal.done:
            self.reporter.log(f"Going on after {self.journal.done} of {len(self.order)} pictures.")
        self.reporter.start(len(self.order), "encoding", unit="image", done=self.journal.done)
        reading = (encoder.image_size, encoder.interpolation)
        batches = read_batches(
            self.source, self.order, [reading], batch_size=batch_size, workers=workers, start=self.journal.done
        )
        with writer:
            try:
                for batch in batches:
                    h = self.encode(batch.readable(0), self.about.flip)
                    representation_file.append(writer, h)
                    writer.flush()
                    self.journal.add(batch.end, h, batch.reasons)
                    self.reporter.update(len(batch.pictures), skipped=len(self.journal.unreadable))
            except KeyboardInterrupt:
                done = f"{self.journal.done} of {len(self.order)}"
                self.reporter.log(f"Stopped after {done} pictures; the same command goes on.")
                raise
            self._check_readable()
            representation_file.finish(
                writer, self.about, self.mark, self.source, self.order, self.journal.unreadable
            )
        with explain_failures(self.out):
            sync_file(self.partial)
            os.replace(self.partial, self.out)
            self.journal.path.unlink()
            sync_folder(self.out.absolute().parent)
        self.reporter.finish()

    def _identity(self) -> dict[str, Any]:
        """What an earlier attempt has to agree on, with the words for each."""
        return {
            "--data": self._data(),
            "--fit": self.about.fit,
            "--flip": self.about.flip,
            "--precision": self.about.precision,
        }

    def _data(self) -> str:
        return data_fingerprint(self.source.ids)

    def _begin(self) -> None:
        """See that the journal is about this work; start one where there is none."""
        provider = self.about.provider
        encoder = {"digest": provider.weights_digest, "h": self.mark.h.tolist(), "how": provider.interpolation}
        begun = self.journal.begun() if self.partial.exists() else None
        if begun is None:
            self.journal.begin({**self._identity(), "encoder": encoder})
            return
        theirs = {key: begun.get(key) for key in self._identity()}
        try:
            before = Fingerprint(begun["encoder"]["digest"], torch.tensor(begun["encoder"]["h"]))
            changed = compare_fingerprints(before, self.mark)
            how = begun["encoder"]["how"]
        except (KeyError, TypeError, ValueError):
            changed, how = "it is not known which one that was", None
        differing = [key for key, value in self._identity().items() if theirs[key] != value]
        if changed is not None or how != provider.interpolation:
            differing.insert(0, f"the encoder ({changed or f'its interpolation was {how}'})")
        if differing:
            raise RCDMError(
                f"{self.partial} was begun with something else: {', '.join(differing)}; go on with the same arguments "
                "and data, choose another --out, or delete it."
            )

    def _check_complete(self, there: Representations) -> None:
        """Raise RCDMError unless the file at --out is what would be written."""
        ours, refusal = self.about, "choose another --out, or delete it"
        try:
            there.check(self.mark, fit=ours.fit, interpolation=ours.provider.interpolation, whose="this command")
        except RCDMError as error:
            raise RCDMError(f"--out is there already: {str(error).partition('; encode')[0]}; {refusal}.") from error
        # The same content under other names is another set: names and classes are part of the file.
        known = set(zip(there.ids, there.names, strict=True)) | {(key, name) for name, key, _ in there.skipped}
        differing = [
            name
            for name, before, now in (
                ("--data", there.about.data.get("fingerprint"), self._data()),
                ("names in --data", known, set(zip(self.source.ids, self.source.names, strict=True))),
                ("--flip", there.about.flip, ours.flip),
                ("--precision", there.about.precision, ours.precision),
            )
            if before != now
        ]
        if differing:
            raise RCDMError(f"{self.out} is there already, with another {', '.join(differing)}; {refusal}.")

    def _check_readable(self) -> None:
        """Raise RCDMError when over half of the pictures cannot be read; then nothing is kept."""
        try:
            self.source.check_readable()
        except RCDMError:
            self.partial.unlink(missing_ok=True)
            self.journal.path.unlink(missing_ok=True)
            raise


def _list_skipped(result: Representations) -> list[str]:
    skipped = result.skipped
    if not skipped:
        return []
    lines = [f"  {name}: {reason}" for name, _, reason in skipped[:_SHOWN]]
    more = [f"  and {len(skipped) - _SHOWN} more"] if len(skipped) > _SHOWN else []
    return [f"Skipped {len(skipped)} pictures that cannot be read (listed in the file):", *lines, *more]
