"""Table 1b with models whose truth is known: an exact generator reaches the ceiling, one that ignores h gets chance."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_rcdm import FakeRCDM
from PIL import Image

import rcdm_core
from rcdm_core.data.shapes import Shapes
from rcdm_core.errors import RCDMError
from rcdm_core.metrics.ranks import chance
from rcdm_core.probes.base import Result
from rcdm_core.probes.encoding import h_at_image_size, h_of
from rcdm_core.probes.faithfulness import answer_other
from rcdm_core.probes.other_samples import read_other_samples
from rcdm_core.probes.pictures import Pictures, choose, from_source, read_arrays

DATA = Shapes(150, seed=5)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    trained = sorted(DATA.ids)[:30]
    models = [
        FakeRCDM("exact", trained=trained),
        FakeRCDM("deaf", deaf=True),
        FakeRCDM("size", forgets=["object", "background", "position"]),
    ]
    out = tmp_path_factory.mktemp("faithfulness")
    return rcdm_core.run_probe("faithfulness", models=models, data=DATA, out=out, count=80, samples=2, rows=3)


def test_an_exact_generator_is_near_the_ceiling_and_a_deaf_one_at_chance(result: Result) -> None:
    exact, deaf, size = (result.aggregates[name] for name in ("exact", "deaf", "size"))
    chance = exact["chance"]
    assert chance == pytest.approx({"mean_rank": 60.5, "mrr": sum(1 / k for k in range(1, 121)) / 120, "top1": 1 / 120})
    for gallery in ("originals", "at image size"):
        of_exact, of_deaf = (entry["galleries"][gallery] for entry in (exact, deaf))
        assert of_exact["samples"]["mrr"]["value"] > 0.9 and of_exact["samples"]["mean_rank"]["value"] < 1.5
        low, high = (of_deaf["samples"]["mean_rank"][end] for end in ("low", "high"))
        assert low < chance["mean_rank"] + 8 and high > chance["mean_rank"] - 8
        assert of_deaf["samples"]["mrr"]["value"] < 0.12
    assert (
        2 < size["galleries"]["originals"]["samples"]["mean_rank"]["value"] < 40
    )  # one number is not enough to find it


def test_the_ceiling_at_image_size_is_perfect(result: Result) -> None:
    for name in ("exact", "deaf"):
        ceiling = result.aggregates[name]["galleries"]["at image size"]["ceiling"]
        assert ceiling["mean_rank"]["value"] == 1 and ceiling["top1"]["value"] == 1
        assert ceiling["mrr"]["low"] == 1


def test_held_out_pictures_alone(result: Result) -> None:
    assert result.provenance["gallery_size"] == 120 and result.provenance["conditioning_pictures"] == 80
    used = [picture["content_id"] for key in ("pictures", "gallery") for picture in result.provenance[key]]
    assert used == sorted(DATA.ids)[30:]
    assert len(result.images) == 80 and np.array(result.images[0]["ranks"]["exact"]["originals"]).shape == (2,)


def test_the_output(result: Result) -> None:
    stored = json.loads((result.out / "result.json").read_text())
    assert stored["complete"] and stored["files"] == ["faithfulness.png", "ranks.png", "report.html"]
    with Image.open(result.out / "faithfulness.png") as grid:
        assert grid.height > 3 * 96
    page = (result.out / "report.html").read_text()
    assert page.count("data:image/png") == 3 * (1 + 3) and "60.5" in page
    assert any(sentence.startswith("exact: seen from a sample") for sentence in result.answer)


def test_the_first_sample_does_not_depend_on_how_many_are_asked_for(result: Result, tmp_path: Path) -> None:
    one = rcdm_core.run_probe(
        "faithfulness",
        models=[FakeRCDM("exact", trained=sorted(DATA.ids)[:30])],
        data=DATA,
        out=tmp_path,
        count=10,
        rows=0,
    )
    assert one.files == ["ranks.png", "report.html"]
    for few, many in zip(one.images, result.images[:10], strict=True):
        assert few["ranks"]["exact"]["originals"][0] == many["ranks"]["exact"]["originals"][0]
    assert one.aggregates["exact"]["galleries"]["originals"]["samples"]["top1"]["n"] == 10


def test_bad_input(tmp_path: Path) -> None:
    model = FakeRCDM("exact")
    with pytest.raises(RCDMError, match="no picture x"):
        rcdm_core.run_probe("faithfulness", models=[model], images=["x.png"], out=tmp_path)
    gone = FakeRCDM("gone")
    gone.config.data = None
    with pytest.raises(RCDMError, match="--data"):
        rcdm_core.run_probe("faithfulness", models=[gone], out=tmp_path)
    with pytest.raises(RCDMError, match="only one"):
        rcdm_core.run_probe("faithfulness", models=[model], data=Shapes(1), out=tmp_path)
    with pytest.raises(RCDMError, match="count"):
        rcdm_core.run_probe("faithfulness", models=[model], data=DATA, out=tmp_path, count=0)
    blind = FakeRCDM("blind", forgets=["object", "background", "size", "position"])
    with pytest.raises(RCDMError, match="without a representation"):
        rcdm_core.run_probe("faithfulness", models=[blind], data=DATA, out=tmp_path)


def test_the_histogram_and_the_classes_are_counts_of_the_ranks(result: Result) -> None:
    for name in ("exact", "deaf", "size"):
        entry = result.aggregates[name]["galleries"]["originals"]
        found = np.array([image["ranks"][name]["originals"] for image in result.images])
        bins = entry["histogram"]
        assert [one["ranks"] for one in bins] == ["1", "2", "3–5", "6–10", "11–20", "21–50", "51–100", "101–120"]
        edges = [0, 1, 2, 5, 10, 20, 50, 100, 120]
        for low, high, one in zip(edges, edges[1:], bins, strict=False):
            assert one["share"]["value"] == pytest.approx(((found > low) & (found <= high)).mean())
            assert one["chance"] == pytest.approx((high - low) / 120)
        own = {image["class"] for image in result.images}
        assert own == set(entry["classes"]) <= set(DATA.label_names)
        for label, summary in entry["classes"].items():
            of_class = [ranks for image, ranks in zip(result.images, found, strict=True) if image["class"] == label]
            assert summary["mean_rank"]["value"] == pytest.approx(np.mean(of_class))
            assert summary["mrr"]["n"] == len(of_class)
    page = (result.out / "report.html").read_text()
    assert "By class" in page and "101–120" in page and (result.out / "ranks.png").stat().st_size > 1000


class Labelled(Shapes):
    """Shapes with other classes: places in `names`."""

    def __init__(self, names: list[str], labels: list[int]) -> None:
        super().__init__(len(labels), seed=5)
        self.label_names, self.labels = names, labels


def test_a_gallery_of_one_class_and_a_class_with_one_picture(tmp_path: Path) -> None:
    """The table by class has one row, which is that of all; a single picture has its rank and no interval."""
    model = FakeRCDM("exact", trained=sorted(Shapes(30, seed=5).ids)[:6])
    small = {"count": 12, "samples": 1, "rows": 1}
    found = rcdm_core.run_probe(
        "faithfulness", models=[model], data=Labelled(["only"], [0] * 30), out=tmp_path / "one", **small
    )
    ranked = found.aggregates["exact"]["galleries"]["originals"]
    assert list(ranked["classes"]) == ["only"] and ranked["classes"]["only"] == ranked["samples"]
    assert found.provenance["gallery_size"] == 24 and ranked["classes"]["only"]["mrr"]["n"] == 12
    page = (tmp_path / "one" / "report.html").read_text()
    assert "By class" in page and "1 class, among the originals" in page

    first = sorted(set(Shapes(30, seed=5).ids) - model.trained)[0]
    labels = [int(content_id == first) for content_id in Shapes(30, seed=5).ids]
    found = rcdm_core.run_probe(
        "faithfulness", models=[model], data=Labelled(["many", "single"], labels), out=tmp_path / "two", **small
    )
    alone = found.aggregates["exact"]["galleries"]["originals"]["classes"]["single"]
    assert alone["mrr"]["n"] == 1 and alone["mrr"]["low"] is None and alone["mrr"]["value"] is not None
    assert found.aggregates["exact"]["galleries"]["originals"]["classes"]["many"]["mrr"]["n"] == 11


def test_files_without_labels_one_of_them_twice_and_smaller_than_the_crop(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(DATA.get(i, 20 if i else 7).transpose(1, 2, 0)).save(folder / f"{i}.png")
    (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
    found = rcdm_core.run_probe(
        "faithfulness", models=[FakeRCDM("exact")], data=folder, out=tmp_path / "out", samples=1, rows=1
    )
    assert found.provenance["gallery_size"] == 9 and len({image["content_id"] for image in found.images}) == 9
    assert found.aggregates["exact"]["galleries"]["originals"]["classes"] == {}
    assert {image["class"] for image in found.images} == {None}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "By class" not in page


def test_given_pictures_are_looked_for_among_held_out_ones(tmp_path: Path) -> None:
    own = Shapes(6, seed=9)
    folder = tmp_path / "given"
    folder.mkdir()
    paths = [folder / f"own-{i}.png" for i in range(len(own))]
    for i, path in enumerate(paths):
        Image.fromarray(own.get(i, 64).transpose(1, 2, 0)).save(path)
    model = FakeRCDM("exact", trained=sorted(DATA.ids)[:30])
    settings = {"samples": 2, "rows": 2}

    found = rcdm_core.run_probe(
        "faithfulness", models=[model], images=paths, data=DATA, out=tmp_path / "among", gallery=40, **settings
    )
    assert found.provenance["gallery_size"] == 40 and found.provenance["conditioning_pictures"] == 6
    assert [record["name"] for record in found.images] == [path.name for path in paths]
    assert [one["content_id"] for one in found.provenance["gallery"]] == sorted(DATA.ids)[30:64]
    figures = found.aggregates["exact"]["galleries"]["originals"]
    assert figures["samples"]["mrr"]["n"] == 6 and figures["samples"]["mrr"]["value"] > 0.9
    assert found.aggregates["exact"]["chance"]["mean_rank"] == 20.5
    page = (found.out / "report.html").read_text()
    assert "The pictures that were given" in page and "nobody chose" not in page

    # one alone has its rank, and no interval
    alone = rcdm_core.run_probe(
        "faithfulness", models=[model], images=paths[:1], data=DATA, out=tmp_path / "alone", **settings
    )
    assert alone.provenance["gallery_size"] == 121
    assert alone.aggregates["exact"]["galleries"]["originals"]["samples"]["mrr"]["low"] is None
    assert any(note.startswith("1 picture is too few for intervals") for note in alone.notes)

    # without data they are ranked among themselves, which one alone cannot be
    model.config.data = None
    among_themselves = rcdm_core.run_probe(
        "faithfulness", models=[model], images=[folder], data=None, out=tmp_path / "own", **settings
    )
    assert among_themselves.provenance["gallery_size"] == 6 and "gallery" not in among_themselves.provenance
    with pytest.raises(RCDMError, match="only one picture, too few to rank among"):
        rcdm_core.run_probe("faithfulness", models=[model], images=paths[:1], out=tmp_path / "one")


def samples_folder(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """Pictures of DATA by index under the names of rows, and a manifest that says that they were made from `image`."""
    folder.mkdir()
    for name, _ in rows:
        pixels = DATA.get(int(name.split(".")[0].split("-")[0]), 48).transpose(1, 2, 0)
        Image.fromarray(pixels).save(folder / name)
    (folder / "manifest.csv").write_text("file,image\n" + "".join(f"{a},{b}\n" for a, b in rows))
    return folder


def test_samples_of_another_system(tmp_path: Path) -> None:
    trained = DATA.ids[0]
    # of six pictures the pictures themselves, some twice: they come first; of four more those of others: they do not
    right = [(f"{i}-{k}.png", DATA.names[i]) for i in range(1, 7) for k in range(1 + i % 2)]
    folder = samples_folder(tmp_path / "right", [*right, ("0.png", DATA.names[0])])
    model = FakeRCDM("exact", trained=[trained])
    arguments = {"models": [model], "data": DATA, "out": tmp_path / "out", "count": 5, "rows": 0}
    found = rcdm_core.run_probe("faithfulness", **arguments, other_samples=str(folder))
    entry = found.aggregates["exact"]
    square = entry["other"].pop("square")
    assert entry["other"] == {"name": "right", "samples": 9, "pictures": 6} and square["n"] == 6
    assert square["value"] < 0.01 and entry["square"]["n"] == 5
    records = found.aggregates["other_images"]
    assert len(records) == 6 and all((one["ranks"]["exact"]["originals"] == 1).all() for one in records)
    assert sum(len(one["files"]) for one in records) == 9 == sum(len(one["squares"]["exact"]) for one in records)
    classes = entry["galleries"]["originals"]["other_classes"]
    assert sum(one["mean_rank"]["n"] for one in classes.values()) == 6
    shared = {one["content_id"] for one in records} & {one["content_id"] for one in found.images}
    (difference,) = found.aggregates["differences"]
    assert difference["second"] == "right, in h of exact" and difference["difference"]["n"] == len(shared)
    other = entry["galleries"]["originals"]["other"]
    assert other["top1"]["value"] == 1 and other["mean_rank"]["value"] == 1 and other["top1"]["n"] == 6
    assert any("1 sample of right: made from pictures that are not in the gallery" in note for note in found.notes)
    assert found.answer[-1].startswith("right, in the h of exact") and "first for 100.0%" in found.answer[-1]
    assert "right, in h of exact" in (tmp_path / "out" / "report.html").read_text()

    # and its pictures are on the page, beside the model's
    everything = arguments | {"count": len(DATA), "rows": len(DATA), "out": tmp_path / "rows"}
    rcdm_core.run_probe("faithfulness", **everything, other_samples=str(folder))
    page = (tmp_path / "rows" / "report.html").read_text()
    assert page.count('alt="samples of right"') == 6 and "<th>samples of right</th>" in page

    # the same by the content of a file, in JSON; and every sample made from another picture than it says
    wrong = samples_folder(tmp_path / "wrong", [(f"{i}.png", DATA.names[i + 1]) for i in range(20, 30)])
    rows = [{"file": f"{i}.png", "image": DATA.names[i + 1]} for i in range(20, 30)]
    (wrong / "manifest.json").write_text(json.dumps(rows))
    (wrong / "manifest.csv").unlink()
    found = rcdm_core.run_probe("faithfulness", **arguments, other_samples=str(wrong))
    assert found.aggregates["exact"]["galleries"]["originals"]["other"]["mean_rank"]["value"] > 10


@pytest.mark.parametrize(
    ("manifest", "text", "message"),
    [
        ("manifest.csv", "picture,image\n1.png,x\n", "Row 1 of .* has no file; expected the columns file and image"),
        ("manifest.csv", "file,image\n1.png,\n", "Row 1 of .* has no image"),
        ("manifest.csv", "file,image\n", "names no samples"),
        ("manifest.csv", "file,image\n2.png,x\n", "names 2.png, but there is no such file"),
        ("manifest.csv", "file,image\n1.png,nobody.png\n", "picture nobody.png, which is neither in"),
        ("manifest.json", "{", "cannot be read"),
        ("manifest.json", "[" * 200_000, "cannot be read .lists in lists"),
        ("manifest.json", '{"file": "1.png"}', "a list of objects with file and image"),
        ("manifest.json", '["1.png"]', "Row 1 of .* has no file"),
        ("readme.txt", "", "neither manifest.csv nor manifest.json"),
    ],
)
def test_bad_manifests(tmp_path: Path, manifest: str, text: str, message: str) -> None:
    folder = samples_folder(tmp_path / "samples", [("1.png", "x")])
    (folder / "manifest.csv").unlink()
    (folder / manifest).write_text(text)
    arguments = {"models": [FakeRCDM("exact")], "data": DATA, "out": tmp_path / "out"}
    with pytest.raises(RCDMError, match=message):
        rcdm_core.run_probe("faithfulness", **arguments, other_samples=str(folder))


def test_other_bad_folders_of_samples(tmp_path: Path) -> None:
    arguments = {"models": [FakeRCDM("exact", trained=[DATA.ids[2]])], "data": DATA, "out": tmp_path / "out"}

    def error(folder: Path) -> str:
        with pytest.raises(RCDMError) as caught:
            rcdm_core.run_probe("faithfulness", **arguments, other_samples=str(folder))
        return str(caught.value)

    assert "--other-samples" in error(tmp_path / "nowhere")
    folder = samples_folder(tmp_path / "samples", [("1.png", DATA.names[2])])
    assert "None of the pictures" in error(folder)
    (folder / "manifest.csv").write_text(f"file,image\n1.png,{DATA.names[3]}\n")
    (folder / "1.png").write_bytes(b"no picture")
    assert "1.png cannot be read as a picture" in error(folder)
    (folder / "manifest.json").write_text("[]")
    assert "has both" in error(folder)


def test_models_are_compared_on_the_same_pictures(result: Result) -> None:
    """By the reciprocal ranks of each picture, averaged over its samples."""
    found = {(d["first"], d["second"]): d for d in result.aggregates["differences"]}
    assert set(found) == {("exact", "deaf"), ("exact", "size"), ("deaf", "size")}
    ranks = {
        name: np.array([image["ranks"][name]["originals"] for image in result.images]) for name in ("exact", "deaf")
    }
    expected = (1 / ranks["exact"]).mean() - (1 / ranks["deaf"]).mean()
    assert found["exact", "deaf"]["difference"]["value"] == pytest.approx(expected)
    assert found["exact", "deaf"]["difference"]["n"] == 80 and found["exact", "deaf"]["p_holm"] < 0.01
    assert "exact less deaf" in (result.out / "report.html").read_text()


def test_names_in_a_manifest_keep_their_characters(tmp_path: Path) -> None:
    names = [" a\u2028b.png", "c\x85d.png ", "e\nf.png", "g\r\nh.png"]
    folder = samples_folder(tmp_path / "other", [(f"{i}.png", "") for i in range(4)])
    for i, name in enumerate(names):
        (folder / f"{i}.png").rename(folder / name)
    rows = [{"file": name, "image": DATA.names[i]} for i, name in enumerate(names)]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "image"])
        writer.writeheader()
        writer.writerows(rows)
    gallery = Pictures([from_source(DATA, i) for i in range(4)])
    found = read_other_samples(folder, gallery, DATA)
    assert [path.name for path in found.files] == names and found.targets.tolist() == [0, 1, 2, 3]


def test_one_sample_of_one_picture_is_said_as_such() -> None:
    drawn = {key: {"value": 1.0, "low": None, "high": None} for key in ("mean_rank", "mrr", "top1")}
    entry = {"other": {"name": "x", "samples": 1, "pictures": 1}, "galleries": {"originals": {"other": drawn}}}
    entry["chance"] = chance(9)
    assert answer_other("a", entry, 9).endswith("1 sample of 1 picture).")
    entry["other"] |= {"samples": 3, "pictures": 2}
    assert answer_other("a", entry, 9).endswith("3 samples of 2 pictures).")


def test_pictures_at_the_samples_size_are_other_pictures() -> None:
    model = FakeRCDM("draws at 32, encodes at 64")
    held = choose([], DATA, [model], count=8)
    small = model.encode(torch.from_numpy(read_arrays(held, 32, "crop"))).numpy()
    assert np.allclose(h_at_image_size(model, held), small) and not np.allclose(h_of(model, held), small)


def test_the_ceiling_among_originals_is_of_small_pictures(result: Result) -> None:
    entry = result.aggregates["size"]["galleries"]["originals"]  # one number, which 32 pixels tell less exactly
    assert entry["ceiling"]["mean_rank"]["value"] > 1
