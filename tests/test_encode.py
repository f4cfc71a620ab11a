"""Files of representations: what is in them, taking one up again, and what stands in for the encoder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from cli_runner import error_of
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from training_fixtures import Recorder, write_encoder, write_images

from rcdm_core import RCDMError, Representations, encode, locks
from rcdm_core.data.folder import ImageFolder
from rcdm_core.data.images import content_hash
from rcdm_core.encoder import fingerprint, load_encoder
from rcdm_core.representations.encoding import BatchEncoder
from rcdm_core.representations.file import packed

pytestmark = pytest.mark.usefixtures("one_thread")

CONVOLUTIONS = """
import torch
from torch import nn

class Flat(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)   # refuses pictures that lie channels-last in memory

def strict():
    return build(Flat())

def build(last=None):
    torch.manual_seed(0)
    last = last or nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), last, nn.Linear(128, 5))
"""


class Interrupts(Recorder):
    """Presses Ctrl-C after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def update(self, advance: float = 1, **numbers: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def provider(tmp_path: Path) -> str:
    return write_encoder(tmp_path / "encoder.py")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for label, count in (("cat", 20), ("dog", 30)):
        write_images(folder / label, count, seed=count)
    return folder


def run(provider: str, images: Path, out: Path, **changes: Any) -> Representations:
    return encode(provider, images, out, **{"options": {"image_size": 8}, "device": "cpu", **changes})


def test_h_is_that_of_the_plain_network_on_each_file(tmp_path: Path) -> None:
    """ResNet-50 with torchvision's own normalisation, on files whose centre square is read without resizing."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.RandomState(0)
    for number in range(5):
        pixels = random.randint(0, 256, (224, 260, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    result = encode("random-resnet50", folder, tmp_path / "h.safetensors", device="cpu", flip=True)
    network = torchvision.models.resnet50(weights=None)
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    network.load_state_dict(load_encoder("random-resnet50").network.state_dict())
    network.eval()
    prepare = torchvision.transforms.Compose(
        [
            torchvision.transforms.CenterCrop(224),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    for row, name in enumerate(result.names):
        x = prepare(Image.open(folder / name))[None]
        with torch.no_grad():
            expected = torch.stack([network(x)[0], network(x.flip(-1))[0]]).numpy()
        assert np.abs(result.h(np.array([row]))[0] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_names_labels_and_ids_are_those_of_the_files(provider: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.safetensors"
    result = run(provider, images, out)
    with safe_open(str(out), "np") as stored:  # as any other program reads it
        names = json.loads(stored.get_tensor("names").tobytes())
        about = json.loads(stored.get_tensor("about").tobytes())
        labels, ids, h = (stored.get_tensor(key) for key in ("labels", "ids", "h"))
    assert h.shape == (50, 5) and h.dtype == np.float32 and np.array_equal(h, result.h()[:, 0])
    assert sorted(names) == sorted(str(path.relative_to(images)) for path in images.glob("*/*"))
    assert [about["label_names"][label] for label in labels] == [name.partition("/")[0] for name in names]
    assert [bytes(key).hex() for key in ids] == [content_hash(images / name) for name in names] == result.ids
    assert names == result.names and labels.tolist() == result.labels
    assert about["provider"]["name"] == provider and about["provider"]["options"]["image_size"] == 8
    assert about["fit"] == "crop" and about["precision"] == "float32" and "torch" in about["versions"]
    encoder = load_encoder(provider, options={"image_size": 8})
    source = ImageFolder(images)
    pixels = np.stack([source.get(source.names.index(name), 8) for name in names])
    assert np.allclose(h, encoder(torch.from_numpy(pixels).float() / 255), atol=1e-5)


def test_rows_are_found_by_id_and_what_is_missing_is_computed(provider: str, images: Path, tmp_path: Path) -> None:
    result = run(provider, images, tmp_path / "h.safetensors")
    rows = [49, 0, 17]
    absent = ["00" * 32, "ff" * 32, "7f" * 31 + "00"]
    assert result.find([result.ids[row] for row in rows] + absent).tolist() == [*rows, -1, -1, -1]
    asked: list[list[int]] = []

    def compute(places: list[int]) -> np.ndarray:
        asked.append(places)
        return np.full((len(places), 5), 7, np.float32)

    h = result.fill([result.ids[3], absent[0], None], compute)
    assert asked == [[1, 2]] and (h[1:] == 7).all() and np.array_equal(h[0], result.h()[3, 0])
    assert np.array_equal(packed(["00ff" * 16]), np.tile(np.array([[0, 255]], np.uint8), 16))


def test_networks_that_cannot_take_channels_last_pictures_give_the_same(images: Path, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(CONVOLUTIONS)
    names = [f"custom:{tmp_path}/c.py:{function}" for function in ("build", "strict")]
    encoders = [load_encoder(name, options={"image_size": 8}) for name in names]
    layouts = [BatchEncoder(one, fingerprint(one), torch.device("cpu")).layout for one in encoders]
    assert layouts == [torch.channels_last, torch.contiguous_format]
    h = [run(name, images, tmp_path / f"{number}").h() for number, name in enumerate(names)]
    assert np.allclose(*h, atol=1e-6)


def test_a_stopped_encoding_goes_on_to_the_same_bits(provider: str, images: Path, tmp_path: Path) -> None:
    (images / "cat" / "bad.png").write_text("this is no picture")
    whole, out = tmp_path / "whole.safetensors", tmp_path / "h.safetensors"
    run(provider, images, whole, batch_size=4)
    for batches in (3, 5):
        reporter = Interrupts(batches)
        with pytest.raises(KeyboardInterrupt):
            run(provider, images, out, batch_size=4, progress=reporter)
        assert "the same command goes on" in reporter.lines[-1] and not out.exists()
    recorder = Recorder()
    result = run(provider, images, out, batch_size=4, progress=recorder)
    assert recorder.started == [(51, "encoding", 32)]  # 3 and 5 batches of 4 were not computed again
    assert out.read_bytes() == whole.read_bytes()
    assert [name for name, _, _ in result.skipped] == ["cat/bad.png"]
    assert {path.name for path in tmp_path.glob("h.*")} == {"h.safetensors"}


def test_a_killed_encoding_goes_on_to_the_same_bits(provider: str, images: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "h.safetensors"
    run(provider, images, whole, batch_size=4)
    script = f"""
import os, signal, torch, rcdm_core
torch.set_num_threads(1)
class Kills(rcdm_core.Reporter):
    done = 0
    def update(self, advance=1, **numbers):
        self.done += 1
        if self.done == 3:
            os.kill(os.getpid(), signal.SIGKILL)
rcdm_core.encode({provider!r}, {str(images)!r}, {str(out)!r}, options={{"image_size": 8}}, device="cpu", batch_size=4,
                 progress=Kills())
"""
    assert subprocess.run([sys.executable, "-c", script], env=os.environ).returncode == -signal.SIGKILL
    with (tmp_path / "h.safetensors.partial").open("r+b") as partial:  # the last batch did not reach the disk whole
        partial.seek(-3, os.SEEK_END)
        partial.write(b"\0\0\0")
    with (tmp_path / "h.safetensors.partial.json").open("a") as journal:
        journal.write('{"done": 16, "ro')
    recorder = Recorder()
    run(provider, images, out, batch_size=4, progress=recorder)
    assert recorder.started == [(50, "encoding", 8)]
    assert out.read_bytes() == whole.read_bytes()


def test_only_the_same_work_is_taken_up(provider: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(provider, images, out, batch_size=4, progress=Interrupts(2))
    other = write_encoder(tmp_path / "other.py", seed=1)
    for changes, words in (
        ({"provider": other}, "the encoder .*other weights"),
        ({"flip": True}, "--flip"),
        ({"precision": "bf16"}, "--precision"),
        ({"fit": "pad"}, "--fit"),
        ({"images": write_images(tmp_path / "more", 3)}, "--data"),
    ):
        with pytest.raises(RCDMError, match=rf"begun with something else: {words}"):
            run(**{"provider": provider, "images": images, "out": out, **changes})  # type: ignore[arg-type]
    run(provider, images, out)
    recorder = Recorder()
    run(provider, images, out, progress=recorder)
    assert recorder.started == [] and "complete already" in recorder.lines[0]
    with pytest.raises(RCDMError, match="there already, with another --flip"):
        run(provider, images, out, flip=True)
    with pytest.raises(RCDMError, match=r"there already: .* was made by another encoder"):
        run(other, images, out)


def test_unreadable_files_are_skipped_and_a_folder_of_them_is_an_error(provider: str, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    for number in range(2):
        (folder / f"bad{number}.png").write_text(f"no picture {number}")
    recorder = Recorder()
    result = run(provider, folder, tmp_path / "h.safetensors", progress=recorder)
    assert len(result) == 4 and sorted(name for name, _, _ in result.skipped) == ["bad0.png", "bad1.png"]
    assert all("not an image" in reason for _, _, reason in result.skipped)
    told = recorder.lines[-3:]
    assert "Skipped 2 pictures" in told[0] and "  bad1.png: it is not an image" in "".join(told[1:])
    for number in range(2, 6):
        (folder / f"bad{number}.png").write_text(f"no picture {number}")
    with pytest.raises(RCDMError, match="6 of 10"):
        run(provider, folder, tmp_path / "other.safetensors")
    assert not list(tmp_path.glob("other.*"))


def test_float32_stays_float32_whatever_the_encoder_allows(images: Path, tmp_path: Path) -> None:
    """A user's file may let matrix products and convolutions round to TF32, which the fingerprint never does."""
    (tmp_path / "loose.py").write_text(
        "import torch\n\nclass Loose(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        rounds = torch.get_float32_matmul_precision() != 'highest' or torch.backends.cudnn.allow_tf32\n"
        "        return x.mean((2, 3)) + 1000 * rounds\n\ndef build():\n"
        "    torch.set_float32_matmul_precision('high')\n    return Loose()\n"
    )
    before = torch.get_float32_matmul_precision()
    try:
        file = encode(f"custom:{tmp_path / 'loose.py'}:build", images, tmp_path / "h.safetensors")
    finally:
        torch.set_float32_matmul_precision(before)
    assert abs(file.h(np.arange(len(file)))).max() < 100


def test_bf16_is_recorded_with_what_it_costs(images: Path, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(CONVOLUTIONS)
    name, recorder = f"custom:{tmp_path}/c.py:build", Recorder()
    exact = run(name, images, tmp_path / "a")
    coarse = run(name, images, tmp_path / "b", precision="bf16", progress=recorder)
    assert (exact.about.precision, exact.about.deviation, exact.remark()) == ("float32", 0.0, None)
    assert coarse.about.precision == "bf16" and 1e-4 < coarse.about.deviation < 0.05
    assert "computed in bf16" in recorder.lines[-1]
    spread = exact.h().std(0).mean()
    assert 0 < np.abs(exact.h() - coarse.h()).max() < 0.2 * spread


def test_files_that_are_none_end_with_a_sentence(provider: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.safetensors"
    run(provider, images, out)
    content = out.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    tensors = load_file(out)
    for wrong, words in (
        (content[:-1], "is truncated"),
        (content[:100], "is not a safetensors file"),
        (b"", "is not a safetensors file"),
        (content.replace(b"rcdm representations", b"some representations"), "holds no representations"),
        (content.replace(b'"version": "2"', b'"version": "3"'), "newer version"),
        (content.replace(b'"version": "2"', b'"version": "1"'), "older version"),
        (content.replace(b'"provider"', b'"providor"'), "is damaged"),
    ):
        damaged.write_bytes(wrong)
        with pytest.raises(RCDMError, match=words):
            Representations(damaged)
    save_file({"h": tensors["h"], "w": np.ones(3, np.float16)}, damaged)
    with pytest.raises(RCDMError, match="holds no representations"):
        Representations(damaged)
    with pytest.raises(RCDMError, match="is no file"):
        Representations(tmp_path)


def test_a_flipped_bit_is_damage_wherever_it_is(provider: str, images: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("rcdm_core.representations.checksums.BLOCK_BYTES", 100)  # five rows
    path = tmp_path / "h.safetensors"
    expected = run(provider, images, path, batch_size=7).h()
    content = path.read_bytes()
    end = 4096 + expected.nbytes
    for place in range(4096, len(content), 37):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(RCDMError, match="damaged"):
            Representations(path).h()
        if place < end:  # the rows of the other blocks are sound
            block = (place - 4096) // 100
            file = Representations(path)
            others = np.array([row for row in range(len(expected)) if row // 5 != block])
            assert np.array_equal(file.h(others), expected[others])
            with pytest.raises(RCDMError, match=f"of the rows from {5 * block}"):
                file.h(np.array([5 * block]))
    path.write_bytes(content)
    assert np.array_equal(Representations(path).h(np.array([-1, 3])), expected[[-1, 3]])


def test_a_dangling_link_is_told(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "h.safetensors")
    for out in (tmp_path / "link", tmp_path / "link" / "h.safetensors"):
        message = error_of("encode", "--provider", "shapes-all", "--data", "shapes:4", "--out", out)
        assert "link is a symbolic link to" in message and "nowhere" in message and "--out" in message
    message = error_of("train", "--provider", "shapes-all", "--data", "shapes:40", "--out", tmp_path / "link")
    assert "is a symbolic link to" in message
    assert "is a symbolic link to" in error_of("plugin", "new", "mine", "--out", tmp_path / "link")


def test_a_lock_that_its_holder_removed_is_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process opens the file, the holder lets go and removes it, and a third one makes a new one."""
    path, flock = tmp_path / "lock", locks.fcntl.flock
    others: list[Any] = []

    def meanwhile(handle: Any, how: int) -> None:
        if not others:
            path.unlink()
            others.append(path.open("a"))
            flock(others[0], how)
        flock(handle, how)

    monkeypatch.setattr(locks.fcntl, "flock", meanwhile)
    with pytest.raises(RCDMError, match="taken"), locks.holding(path, "taken"):
        raise AssertionError("both hold it")
    others[0].close()
    with locks.holding(path, "taken", passing=True):
        assert path.exists()
        with pytest.raises(RCDMError, match="taken"), locks.holding(path, "taken"):
            raise AssertionError("both hold it")
    assert not path.exists()


def test_renamed_pictures_are_other_data(tmp_path: Path) -> None:
    write_images(tmp_path / "before", 4)
    out = tmp_path / "h.safetensors"
    encode("shapes-all", tmp_path / "before", out)
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    first = min((tmp_path / "after").iterdir())
    first.rename(first.with_name(f"renamed-{first.name}"))
    encode("shapes-all", tmp_path / "before", out)  # complete already
    with pytest.raises(RCDMError, match="names in --data"):
        encode("shapes-all", tmp_path / "after", out)


@pytest.mark.parametrize("h", ["torch.rand(len(x), 3)", "x.mean((2, 3)) - x.mean((0, 2, 3))"])
def test_an_h_that_is_no_function_of_one_picture_is_refused(tmp_path: Path, h: str) -> None:
    lines = ["import torch", "class Odd(torch.nn.Module):", "    def forward(self, x):", f"        return {h}"]
    (tmp_path / "odd.py").write_text("\n".join([*lines, "def build():", "    return Odd()", ""]))
    with pytest.raises(RCDMError, match="another h alone than among others"):
        encode(f"custom:{tmp_path / 'odd.py'}:build", "shapes:4", tmp_path / "h.safetensors")


def test_a_full_disk_is_told_with_the_file_and_the_option(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "from rcdm_cli.main import main; sys.argv[1:] = "
        f"['encode', '--provider', 'shapes-all', '--data', 'shapes:64', '--out', {str(tmp_path / 'h.st')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "h.st.partial" in done.stderr and "--out" in done.stderr
