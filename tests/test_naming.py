"""Names of models as keys of results, beside what probes write there themselves."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_rcdm import FakeRCDM

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.naming import RESERVED, of_models
from rcdm_core.sampling import _file_names
from rcdm_core.training import TrainConfig
from rcdm_core.weights_given import name_weights


def test_no_name_is_a_word_of_results_or_occurs_twice() -> None:
    assert of_models(["a", "differences", "b"]) == ["a", "model differences", "b"]
    names = of_models(["a", "a", "a (2)", "a", "probes", "model probes"])
    assert names == ["a", "a (2)", "a (2) (2)", "a (3)", "model probes", "model probes (2)"]


def test_names_of_files_differ_by_more_than_case() -> None:
    """On the disks of most Macs and of Windows Cat-1.png is cat-1.png."""
    pictures = [SimpleNamespace(name=name) for name in ("a/Cat.jpg", "b/cat.jpg", "c/dog.jpg")]
    assert _file_names(pictures, 2) == ["Cat", "cat-2", "dog"]
    assert name_weights(["one/Last.pth", "two/last.pth", "other.pth"]) == ["one-Last", "two-last", "other"]
    assert name_weights(["Last.pth", "last.pth"]) == ["Last.pth", "last.pth-2"]


def test_every_word_that_probes_write_beside_models_is_reserved() -> None:
    sources = [path.read_text() for path in (Path(rcdm_core.__file__).parent / "probes").glob("*.py")]
    written = {word for text in sources for word in re.findall(r'result\.aggregates(?:\.setdefault\(|\[)"(\w+)"', text)}
    assert {"differences", "probes"} <= written == RESERVED


def test_a_model_that_is_called_as_a_word_of_results_is_probed(tmp_path: Path) -> None:
    models = [FakeRCDM("differences"), FakeRCDM("b")]
    result = rcdm_core.run_probe(
        "samples", models=models, data=Shapes(30, seed=3), out=tmp_path, count=2, samples=2, pool=4
    )
    assert list(result.aggregates) == ["model differences", "b", "differences"]
    assert "model differences" in (tmp_path / "report.html").read_text()


def test_no_label_is_a_word_of_results() -> None:
    with pytest.raises(RCDMError, match="--label differences is a word of results; it must be another one"):
        TrainConfig("shapes-all", label="differences")
