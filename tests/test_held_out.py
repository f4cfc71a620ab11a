"""As many pictures are held out as were asked for, however many files cannot be read."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_resume import results
from training_fixtures import Make, Recorder, write_images

from rcdm_core import bundle
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.source import split
from rcdm_core.errors import RCDMError
from rcdm_core.training import setup, train

pytestmark = pytest.mark.usefixtures("one_thread")
BAD = 15


@pytest.fixture
def data(arguments: Make, tmp_path: Path) -> ImageFolder:
    """40 pictures, and files of the same kind that cannot be read."""
    for number in range(BAD):
        (tmp_path / "images" / f"bad{number}.png").write_text(f"no picture {number}")
    return ImageFolder(tmp_path / "images")


def held_out(run: Path) -> list[str]:
    config = bundle.read(run)[0]
    assert config.data is not None and config.data.train_count == 40 - len(config.data.held_out)
    model = bundle.load(run, check_encoder=False)
    assert not any(model.trained_on(content_id) for content_id in config.data.held_out)
    return sorted(config.data.held_out)


def readable(data: ImageFolder) -> list[str]:
    return [content_id for name, content_id in zip(data.names, data.ids, strict=True) if "bad" not in name]


@pytest.mark.parametrize(("asked", "count"), [(12, 12), (0.25, 10), (None, 4)])
def test_so_many_readable_ones(
    arguments: Make, data: ImageFolder, tmp_path: Path, asked: int | float | None, count: int
) -> None:
    run = train(arguments(steps=1, held_out=asked))
    found = held_out(run)
    assert len(found) == count
    # they are those of a folder in which the others are not, whatever the files are called
    clean = write_images(tmp_path / "clean", 40)
    for path in sorted(clean.iterdir()):
        path.rename(clean / f"{1000 - int(path.stem)}.png")
    assert held_out(train(arguments(steps=1, held_out=asked, data=str(clean), out=tmp_path / "other"))) == found
    # some of the files that rank before them cannot be read, or this would test nothing
    before = split(data.ids, count)[1]
    assert asked is None or sum("bad" in data.names[index] for index in before) > 0
    assert split(readable(data), count)[1] == [readable(data).index(one) for one in data.ids if one in found]


def test_the_split_is_that_of_an_earlier_run_of_the_same_pictures(arguments: Make, data: ImageFolder) -> None:
    """Whether the files were read just now or are known from a cache, with pixels on disk or without."""
    runs = [
        train(arguments(steps=1, held_out=12, out=arguments().out / str(number), **more))
        for number, more in enumerate([{}, {}, {"pixel_cache_limit": 0}, {"provider": "none", "provider_options": {}}])
    ]
    assert len({tuple(held_out(run)) for run in runs}) == 1


def test_a_run_that_was_begun_with_fewer_goes_on_with_them(
    arguments: Make, data: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_all_files(config: Any, source: Any, dataset: Any, saved: Any) -> tuple[np.ndarray, np.ndarray]:
        parts = split([source.ids[index] for index in dataset.order], 12)
        first, second = (np.array([row for row in part if dataset.readable[row]]) for part in parts)
        return first, second

    stop = Recorder(lambda done: os.kill(os.getpid(), signal.SIGINT) if done == 2 else None)
    with monkeypatch.context() as patch:
        patch.setattr(setup, "_rows_of_split", of_all_files)
        whole = train(arguments(steps=4, held_out=12, out=tmp_path / "whole"))
        run = train(arguments(steps=4, held_out=12), stop)
    fewer = held_out(run)
    assert len(fewer) < 12
    train(arguments(steps=4, held_out=12, resume=True))
    assert held_out(run) == fewer == held_out(whole) and results(run) == results(whole)
    # another set is another set all the same
    (tmp_path / "images" / "000.png").unlink()
    with pytest.raises(RCDMError, match=r"The images of .* have changed since it began"):
        train(arguments(steps=6, held_out=12, resume=True))


def test_more_than_can_be_read_is_refused(arguments: Make, data: ImageFolder) -> None:
    for asked in (40, 54):
        with pytest.raises(RCDMError, match=rf"{asked} is no valid number of held-out pictures for a set of 40 diff"):
            train(arguments(held_out=asked))
    with pytest.raises(RCDMError, match=r"55 is no valid number of held-out pictures for a set of 55 different ones"):
        train(arguments(held_out=55))
