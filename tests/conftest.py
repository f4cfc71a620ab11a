"""What every test stands on: two threads, caches that are not the user's, and random numbers of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_fixtures import arguments, micro, one_thread  # noqa: F401  (fixtures that several files use)

# Fixed, for the bits; one where other work competes for the processors: OMP_NUM_THREADS=1.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """RCDM_CACHE is a temporary folder for the whole run, also for the processes that tests start."""
    path = tmp_path_factory.mktemp("rcdm-cache")
    before = os.environ.get("RCDM_CACHE")
    os.environ["RCDM_CACHE"] = str(path)
    yield path
    if before is None:
        del os.environ["RCDM_CACHE"]
    else:
        os.environ["RCDM_CACHE"] = before


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> Iterator[None]:
    """Each test begins with the random numbers that torch begins with, whichever tests ran before it."""
    with torch.random.fork_rng(devices=[]):
        yield
