"""The invariance probe, against models whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_rcdm import ExactRCDM
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.metrics.attributes import ATTRIBUTES, measure
from rcdm_core.metrics.readout import fit_readout
from rcdm_core.metrics.retention import Observed, variance_ratio
from rcdm_core.probes.base import Result
from rcdm_core.probes.encoding import h_of
from rcdm_core.probes.invariance import answer
from rcdm_core.probes.pictures import choose, from_source, read_arrays
from rcdm_core.probes.transforms import pick
from rcdm_core.report.invariance import _lines

ROWS = "vertical-shift,zoom-out,grayscale,color-jitter,blur"
DATA = Shapes(130, seed=3)


def run(models: list[FakeRCDM], out: Path, **arguments: Any) -> Result:
    settings: dict[str, Any] = {"data": DATA, "transform": ROWS, "samples": 4, "count": 6, "pool": 100} | arguments
    return rcdm_core.run_probe("invariance", models=models, out=out, **settings)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    colorless = FakeRCDM("no-color", forgets=["object", "background"])
    placeless = FakeRCDM("no-position", forgets=["position"])
    models = [FakeRCDM("all"), colorless, placeless, FakeRCDM("deaf", deaf=True)]
    return run(models, tmp_path_factory.mktemp("invariance"))


def verdicts(result: Result, name: str) -> dict[tuple[str, str], str]:
    transforms = result.aggregates[name]["transforms"]
    return {
        (transform, attribute): response["verdict"]
        for transform, entry in transforms.items()
        for attribute, response in entry["responses"].items()
    }


ASKED = [
    ("vertical-shift", "position"),
    ("zoom-out", "size"),
    ("grayscale", "saturation"),
    ("color-jitter", "object color"),
    ("color-jitter", "background color"),
]


def test_verdicts_are_the_truth(result: Result) -> None:
    assert [verdicts(result, "all")[key] for key in ASKED] == ["follows"] * 5
    assert [verdicts(result, "no-color")[key] for key in ASKED] == [
        "follows",
        "follows",
        "ignores",
        "ignores",
        "ignores",
    ]
    assert [verdicts(result, "no-position")[key] for key in ASKED] == [
        "ignores",
        "follows",
        "follows",
        "follows",
        "follows",
    ]


def test_a_generator_that_ignores_h_is_not_taken_for_a_blind_encoder(result: Result) -> None:
    found = verdicts(result, "deaf")
    assert "ignores" not in [found[key] for key in ASKED]
    assert [found[key] for key in ASKED if key[0] != "grayscale"] == ["generator"] * 4
    retention = result.aggregates["deaf"]["rendered_retention"]
    assert all(value is None or value["low"] < 0.3 for value in retention.values())


def test_what_neither_a_line_nor_a_deaf_generator_finds_is_not_taken_for_absent(tmp_path: Path) -> None:
    """h holds the position in a code: the generator that hears it draws it; with one that does not, nobody can tell."""
    coded, deaf = ExactRCDM(coded=True, name="coded"), ExactRCDM(coded=True, spoiled="deaf", name="coded deaf")
    models = [coded, deaf, ExactRCDM("shapes-no-position", name="none")]
    found = run(models, tmp_path, data=Shapes(400, seed=3), transform="vertical-shift", count=12, pool=300)
    assert verdicts(found, "coded")["vertical-shift", "position"] == "follows"
    assert verdicts(found, "coded deaf")["vertical-shift", "position"] == "cannot tell"
    assert verdicts(found, "none")["vertical-shift", "position"] == "ignores"
    response = found.aggregates["coded deaf"]["transforms"]["vertical-shift"]["responses"]["position"]
    assert "not seen to use h" in response["why"]
    heard = {name: found.aggregates[name]["h_in_samples"] for name in ("coded", "coded deaf")}
    assert heard["coded"]["low"] > 0.5 > heard["coded deaf"]["high"] and heard["coded deaf"]["low"] < 0.05


def test_readouts_see_no_probed_picture(tmp_path: Path) -> None:
    """They are fitted on the pool alone, without which there are none, however many pictures are probed."""
    rows: dict[str, Any] = {"data": Shapes(140, seed=3), "transform": "flip", "samples": 1, "count": 70}
    alone = run([FakeRCDM("all")], tmp_path / "1", pool=0, **rows)
    assert alone.aggregates["all"]["readout_r2"] == {} and alone.aggregates["all"]["pool"] == 70
    assert any("to fit a linear readout" in note for note in alone.notes)
    beside = run([FakeRCDM("all")], tmp_path / "2", pool=70, **rows)
    probed = {image["content_id"] for image in beside.images}
    data, model = rows["data"], FakeRCDM("all")
    others = [from_source(data, i) for i in sorted(range(140), key=data.ids.__getitem__) if data.ids[i] not in probed]
    expected = fit_readout(h_of(model, others), measure(read_arrays(others, 32, "crop"))["position"])
    assert expected is not None
    assert beside.aggregates["all"]["readout_r2"]["position"] == pytest.approx(expected.r2)


def test_what_a_transform_does_not_move_gets_no_response(result: Result) -> None:
    found = verdicts(result, "all")
    assert found["vertical-shift", "background color"] == "not moved"
    assert found["grayscale", "object color"] == "not measurable"
    assert found["grayscale", "brightness"] == "not moved"  # luma is kept


def test_responses_and_distances(result: Result) -> None:
    shift = result.aggregates["all"]["transforms"]["vertical-shift"]
    assert shift["responses"]["position"]["real_shift"] == pytest.approx(0.15, abs=0.01)
    rendered = shift["responses"]["position"]["rendered"]
    assert rendered["value"] == pytest.approx(1, abs=0.02) and rendered["low"] <= rendered["value"] <= rendered["high"]
    assert rendered["n"] == 6
    jitter = result.aggregates["no-color"]["transforms"]["color-jitter"]
    assert (
        jitter["dh_relative"]["value"]
        < 0.02
        < result.aggregates["all"]["transforms"]["color-jitter"]["dh_relative"]["value"]
    )
    assert result.aggregates["all"]["rendered_retention"]["position"]["value"] == pytest.approx(1, abs=0.02)


def test_the_answer_says_it_in_words(result: Result) -> None:
    by_name = {sentence.split()[0]: sentence for sentence in result.answer}
    assert "keeps vertical position and size" in by_name["no-color"]
    assert "does not keep color as against gray, object color and background color" in by_name["no-color"]
    assert "without the generator drawing it" in by_name["deaf"]


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["schema_version"] == 1 and stored["complete"] and stored["probe"] == "invariance"
    assert stored["arguments"]["seed"] == 0 and stored["arguments"]["transform"] == ROWS
    assert len(stored["images"]) == 6 and all(len(image["content_id"]) == 64 for image in stored["images"])
    assert [model["name"] for model in stored["models"]] == ["all", "no-color", "no-position", "deaf"]
    assert {"rcdm", "torch", "numpy"} <= set(stored["versions"])
    assert sorted(stored["files"]) == [
        "invariance-001.png",
        *(f"invariance-00{i}.png" for i in range(2, 7)),
        "report.html",
    ]
    assert all((result.out / name).stat().st_size > 1000 for name in stored["files"])
    assert "NaN" not in (result.out / "result.json").read_text()


def test_rows_and_models_share_noise_and_a_run_repeats(tmp_path: Path) -> None:
    first = run([FakeRCDM("a"), FakeRCDM("b")], tmp_path / "1", count=2, pool=0, transform="flip")
    again = run([FakeRCDM("a")], tmp_path / "2", count=2, pool=0, transform="flip")
    assert first.aggregates["a"] == first.aggregates["b"] == again.aggregates["a"]
    other = run([FakeRCDM("a")], tmp_path / "3", count=2, pool=0, transform="flip", seed=1)
    assert other.to_json()["images"][0]["models"] != again.to_json()["images"][0]["models"]


def test_one_picture_has_no_interval_and_says_so(tmp_path: Path) -> None:
    picture = Image.fromarray(DATA.get(0, 200).transpose(1, 2, 0))
    picture.save(tmp_path / "one.png")
    picture.save(tmp_path / "copy.png")
    result = run(
        [FakeRCDM("all")], tmp_path / "out", images=[tmp_path / "one.png", tmp_path / "copy.png"], transform="flip"
    )
    assert len(result.images) == 1
    response = result.aggregates["all"]["transforms"]["flip"]["responses"]["position"]
    assert response["rendered"]["low"] is None and response["verdict"] == "follows"
    assert any("too few for intervals" in note for note in result.notes)
    assert any("1 of the 2 pictures given is the same" in note for note in result.notes)


def test_pictures_in_memory_and_folders(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(DATA.get(1, 80).transpose(1, 2, 0)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    tensor = DATA.get(2, 50).astype(np.float32) / 255
    images = [tmp_path / "in", Image.fromarray(DATA.get(3, 40).transpose(1, 2, 0)), tensor]
    result = run([FakeRCDM("all")], tmp_path / "out", images=images, transform="flip", data=None)
    assert [image["name"].split()[0] for image in result.images] == ["a.png", "picture", "picture"]
    assert any("b.png" in note for note in result.notes)
    small = [note for note in result.notes if "smaller than the 64 pixels" in note]  # that the encoder takes
    assert len(small) == 1 and "(40 × 40)" in small[0] and "(50 × 50)" in small[0] and "a.png" not in small[0]


def test_trained_on_is_said_and_avoided(tmp_path: Path) -> None:
    trained = sorted(DATA.ids)[:20]
    model = FakeRCDM("all", trained=trained)
    result = run([model], tmp_path / "1", count=3, pool=0, transform="flip")
    assert [image["content_id"] for image in result.images] == sorted(DATA.ids)[20:23]
    pixels = DATA.get(0, 64)
    picture = tmp_path / "picture.png"
    Image.fromarray(pixels.transpose(1, 2, 0)).save(picture)
    given = run([model], tmp_path / "2", images=[picture], pool=0, transform="flip")
    model.trained = {given.images[0]["content_id"]}
    seen = run([model], tmp_path / "3", images=[picture], pool=0, transform="flip")
    assert seen.provenance["pictures"][0]["trained_on"] == {"all": True}
    assert any("all was trained on 1 of the 1 pictures" in note for note in seen.notes)
    memory = run([model], tmp_path / "4", images=[pixels.astype(np.float32) / 255], pool=0, transform="flip")
    assert memory.provenance["pictures"][0]["trained_on"] == {"all": None}
    assert any("not known whether all was trained on picture" in note for note in memory.notes)
    with pytest.raises(RCDMError, match="trained on"):
        run([FakeRCDM("all", trained=DATA.ids)], tmp_path / "5")


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_that_nobody_transforms_are_read_as_in_training(tmp_path: Path, fit: str) -> None:
    """Also large ones: from the original at once, not by way of the size at which transforms work."""
    pixels = np.random.default_rng(1).integers(0, 256, (1201, 1500, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    folder = ImageFolder(tmp_path, fit=fit)
    memory = choose([Image.fromarray(pixels)], None, [], count=1)
    for picture in (from_source(folder, 0), choose([tmp_path / "large.png"], None, [], count=1)[0], memory[0]):
        assert np.array_equal(read_arrays([picture], 48, fit)[0], folder.get(0, 48).astype(np.float32) / 255)


def test_the_variance_of_samples_is_that_of_the_pictures_for_a_faithful_generator(result: Result) -> None:
    """An exact generator reaches 1 whatever h holds; here over few pictures, so that the interval has to say so."""
    for name in ("all", "deaf"):
        found = result.aggregates[name]["sample_variance"]
        assert set(found) == set(result.aggregates[name]["rendered_retention"])
        assert found["position"]["low"] < 1.2 and found["position"]["high"] > 0.8
    assert result.aggregates["all"]["sample_variance"]["position"]["value"] == pytest.approx(1, abs=0.02)
    assert "variance of the samples" in (result.out / "report.html").read_text()


def test_the_total_variance_is_within_and_between_pictures() -> None:
    rng = np.random.default_rng(0)
    real, samples = rng.normal(size=(40, 1, 2)), rng.normal(size=(40, 1, 7, 2)) * 3
    means = samples.mean(axis=2)
    spread = ((samples - means[:, :, None]) ** 2).sum(axis=3).mean(axis=2)
    found = variance_ratio(Observed(real[:, 0], means[:, 0], spread[:, 0], floor=0.0), seed=0)
    expected = samples.reshape(-1, 2).var(axis=0).sum() / real.reshape(-1, 2).var(axis=0).sum()
    assert found is not None and found.value == pytest.approx(expected) and found.has_interval


def test_the_answer_does_not_contradict_itself() -> None:
    def entry(attribute: str, code: str) -> dict[str, Any]:
        return {"responses": {attribute: {"verdict": code}}}

    agreeing = {"zoom-in": entry("size", "follows"), "zoom-out": entry("size", "follows")}
    assert answer("m", agreeing) == "m keeps size."
    assert answer("m", agreeing | {"zoom-out": entry("size", "not moved")}) == "m keeps size."
    position = {"flip": entry("position", "ignores"), "vertical-shift": entry("position", "ignores")}
    assert answer("m", agreeing | {"zoom-out": entry("size", "cannot tell")} | position) == (
        "m keeps size (by zoom-in); does not keep horizontal position and vertical position; "
        "leaves open whether it keeps size (by zoom-out)."
    )


def test_a_run_is_described_so_that_it_can_be_repeated(tmp_path: Path) -> None:
    stored = run([FakeRCDM("all")], tmp_path, count=1, pool=0, transform="flip", device="auto").to_json()
    assert "--device cpu" in stored["command"] and "--precision auto" in stored["command"]
    assert stored["models"][0]["device"] == "cpu" and stored["models"][0]["computes_in"] in ("float32", "bfloat16")
    assert stored["data"]["fingerprint"] == DATA.describe()["fingerprint"]


def test_provenance_is_on_disk_before_the_compute(tmp_path: Path) -> None:
    model = FakeRCDM("all")

    def interrupt() -> None:
        stored = json.loads((tmp_path / "result.json").read_text())
        assert not stored["complete"] and stored["pictures"] and stored["command"].startswith("rcdm probe invariance")
        raise KeyboardInterrupt

    model.before_sampling = interrupt
    with pytest.raises(KeyboardInterrupt):
        run([model], tmp_path)
    assert not json.loads((tmp_path / "result.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": "zoom-inn"}, "zoom-in"),
        ({"transform": "flip,flip"}, "twice"),
        ({"strength": 0.0}, "strength"),
        ({"strength": 4}, "strength"),
        ({"samples": 0}, "samples"),
        ({"colour": 1}, "transform"),
        ({"images": ["nowhere.png"]}, "nowhere.png"),
        ({"images": [np.zeros((3, 4, 4), np.uint8)]}, "float tensor"),
        ({"steps": 0}, "--sampling-steps 0: between 1 and"),
        ({"steps": 5000}, "--sampling-steps 5000: between 1 and"),
        ({"device": "gpu"}, "--device gpu is not known"),
        ({"device": "cuda:77"}, "not on this machine"),
        ({"weights": "moved.pth"}, "loaded already"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RCDMError, match=message):
        run([FakeRCDM("all")], tmp_path, **arguments)


def test_half_the_strength_is_half_the_shift(tmp_path: Path) -> None:
    found = run([FakeRCDM("all")], tmp_path, strength=0.5, transform="vertical-shift", samples=1)
    response = found.aggregates["all"]["transforms"]["vertical-shift"]["responses"]["position"]
    assert response["real_shift"] == pytest.approx(0.075, abs=0.01)
    assert "8%" in found.provenance["transforms"]["vertical-shift"]


def test_unknown_probe_and_no_model(tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match="the nearest is invariance"):
        rcdm_core.run_probe("invarianze", models=[FakeRCDM("all")], out=tmp_path)
    with pytest.raises(RCDMError, match="--model"):
        rcdm_core.run_probe("invariance", models=[], out=tmp_path)


# a real bundle


def test_a_bundle_on_disk_with_a_real_encoder(tmp_path: Path) -> None:
    """An untrained generator draws noise: what the encoder keeps is then the generator's limit, not a blindness."""
    import torch

    from rcdm_core import bundle
    from rcdm_core.data.source import split
    from rcdm_core.presets import PRESETS
    from rcdm_core.unet import UNet

    encoder = rcdm_core.load_encoder("shapes-no-color")
    fingerprint = rcdm_core.fingerprint(encoder)
    preset = PRESETS["tiny-32"]
    unet = preset.unet_config("batchnorm", h_dim=encoder.dim)
    training, held_out = split(DATA.ids, 90)
    config = bundle.BundleConfig(
        unet=unet,
        diffusion=preset.diffusion,
        provider=bundle.ProviderRecord(
            "shapes-no-color", "oracle", encoder.dim, encoder.image_size, {}, None, fingerprint.weights_digest
        ),
        data=bundle.DataRecord(DATA.describe(), "crop", "", len(training), tuple(DATA.ids[i] for i in held_out)),
        preset=preset.name,
        step=0,
        images_seen=0,
        seconds=0.0,
        seed=0,
        arguments={},
        versions={},
    )
    train_ids = torch.tensor(sorted(bundle.id_prefix(DATA.ids[i]) for i in training))
    mean, std = torch.zeros(encoder.dim), torch.ones(encoder.dim)
    bundle.save(tmp_path / "run", config, bundle.Contents(UNet(unet).state_dict(), mean, std, fingerprint.h, train_ids))

    result = rcdm_core.run_probe(
        "invariance",
        models=[tmp_path / "run"],
        out=tmp_path / "out",
        transform=["vertical-shift", "color-jitter"],
        count=2,
        samples=1,
        steps=2,
    )
    stored = json.loads((result.out / "result.json").read_text())
    assert len(stored["models"][0]["bundle_digest"]) == 64 and stored["models"][0]["path"] == str(tmp_path / "run")
    used = {picture["content_id"] for picture in stored["pictures"]}
    assert used <= {DATA.ids[i] for i in held_out}
    found = verdicts(result, "run")
    # noise may happen to have no hue at all, which is no verdict either
    assert {found["color-jitter", "object color"], found["color-jitter", "background color"]} <= {
        "ignores",
        "not measurable",
    }
    assert result.aggregates["run"]["transforms"]["color-jitter"]["dh_relative"]["value"] < 0.02
    assert found["vertical-shift", "position"] not in ("ignores", "follows")


def test_h_is_beside_every_row_however_many_attributes_move() -> None:
    entry = {"response": dict.fromkeys(ATTRIBUTES, 0.5), "dh_relative": 0.25}
    lines = _lines(entry, pick("blur")[0])
    assert len(lines) == 5 and lines[-1] == "h 0.25"
    assert len(_lines({**entry, "dh_relative": None}, pick("blur")[0])) == 5


def test_an_h_that_is_one_for_all_pictures_ignores_everything(tmp_path: Path) -> None:
    model = ExactRCDM("shapes-all", constant=True)
    found = run([model], tmp_path, data=Shapes(120, seed=5), transform="grayscale,flip")
    for row in found.aggregates["shapes-all"]["transforms"].values():
        verdicts = {one["verdict"] for one in row["responses"].values() if one["rendered"]}
        assert verdicts <= {"ignores", "cannot tell"} and "but h moves" not in str(row)
    flip = found.aggregates["shapes-all"]["transforms"]["flip"]
    assert flip["responses"]["position"]["verdict"] == "ignores" and flip["dh"]["value"] == 0


def test_a_model_without_a_representation_is_refused(tmp_path: Path) -> None:
    model = FakeRCDM("none")
    model.h_dim = 0
    with pytest.raises(RCDMError, match="none was trained without a representation"):
        run([model], tmp_path)
