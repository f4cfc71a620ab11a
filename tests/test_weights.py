"""Checkpoint files: found, fetched, verified, read without running anything, and put into a network strictly."""

from __future__ import annotations

import argparse
import errno
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from training_fixtures import Recorder

from rcdm_core import RCDMError, WeightsInfo, load_into, read_state_dict, resolve_weights
from rcdm_core.progress import showing
from rcdm_core.weights_cache import cache_path


class Server:
    """A web server on this machine whose pages are a dict; it counts what is asked of it.

    breaks   how many answers end half-way through what is left
    ranges   whether it can go on in the middle
    codes    of the next answers, in place of the page
    tag      the pages' version
    """

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.breaks = 0
        self.ranges = True
        self.codes: list[int] = []
        self.tag = '"1"'
        self.asked: list[str] = []
        self.from_byte: list[int] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if outer.codes or self.path not in outer.pages:
                    self.send_error(outer.codes.pop(0) if outer.codes else 404)
                    return
                page = outer.pages[self.path]
                wanted = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
                start = wanted if outer.ranges and self.headers.get("If-Range") in (None, outer.tag) else 0
                outer.from_byte.append(start)
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(page) - 1}/{len(page)}")
                self.send_header("Content-Length", str(len(page) - start))
                self.send_header("ETag", outer.tag)
                self.end_headers()
                self.wfile.write(page[start : start + (len(page) - start) // 2] if outer.breaks else page[start:])
                outer.breaks = max(0, outer.breaks - 1)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"x")
    assert resolve_weights(str(path), None, provider="p") == path
    with pytest.raises(RCDMError, match=r"--weights .*nowhere\.pth does not exist, expected a checkpoint file for p"):
        resolve_weights(str(tmp_path / "nowhere.pth"), None, provider="p")
    with pytest.raises(RCDMError, match="is a folder"):
        resolve_weights(str(tmp_path), None, provider="p")
    with pytest.raises(RCDMError, match=r"p has no weights of its own: .*--weights FILE"):
        resolve_weights(None, None, provider="p")
    with pytest.raises(RCDMError, match="no weights of its own"):
        resolve_weights(None, WeightsInfo(licence="MIT"), provider="p")


def test_a_name_with_a_digest_is_kept_where_torch_hub_keeps_it(server: Server, checkpoints: Path) -> None:
    content = b"weights" * 1000
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.pages[f"/a/{name}"] = content
    info = WeightsInfo(url=f"{server.url}/a/{name}")
    path = resolve_weights(None, info, provider="p")
    assert path == checkpoints / name and path.read_bytes() == content
    assert resolve_weights(None, info, provider="p") == path
    assert server.asked == [f"/a/{name}"]  # once
    assert files(checkpoints) == [name]
    path.write_bytes(b"something else")
    with pytest.raises(RCDMError, match=f"{name} is not the file that .* gave: .*--weights FILE"):
        resolve_weights(None, info, provider="p")


def test_a_download_of_another_content_leaves_nothing_behind(server: Server, checkpoints: Path) -> None:
    server.pages["/net-00000000.pth"] = b"weights"
    with pytest.raises(RCDMError, match=r"sha256 starts with .*, expected 00000000"):
        resolve_weights(None, WeightsInfo(url=f"{server.url}/net-00000000.pth"), provider="p")
    server.pages["/net.pth"] = b"weights"
    with pytest.raises(RCDMError, match="expected ffff"):
        resolve_weights(None, WeightsInfo(url=f"{server.url}/net.pth", sha256="FFFF"), provider="p")
    assert files(checkpoints) == []


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are not waited for."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.mark.parametrize("ranges", [True, False], ids=["in the middle", "from the beginning"])
def test_a_broken_connection_is_taken_up_again(
    ranges: bool, server: Server, checkpoints: Path, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytes(range(256)) * 40
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.pages[f"/{name}"] = content
    server.breaks, server.ranges = 2, ranges
    recorder = Recorder()
    with showing(recorder):
        path = resolve_weights(f"{server.url}/{name}", None, provider="p")
    assert path.read_bytes() == content and files(checkpoints) == [name]
    assert server.from_byte == ([0, 5120, 7680] if ranges else [0, 0, 0])
    assert waits == [1, 2]
    assert recorder.started == [(0.0, f"downloading {name}", 0)] * (1 if ranges else 3)
    assert recorder.lines[0] == f"downloading {server.url}/{name} (0 MB) to {path}"
    assert "broke off (5120 of 10240 bytes arrived); trying again in 1 s" in recorder.lines[1]
    path.unlink()
    resolve_weights(f"{server.url}/{name}", None, provider="p")
    assert capsys.readouterr().err == recorder.lines[0] + "\n"  # without anything that shows bars


def test_a_file_that_changes_in_between_is_fetched_from_the_beginning(
    server: Server, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/net.pth"] = b"a" * 100
    server.breaks = 1

    def change(_: float) -> None:
        server.pages["/net.pth"], server.tag = b"b" * 100, '"2"'

    monkeypatch.setattr(time, "sleep", change)
    assert resolve_weights(f"{server.url}/net.pth", None, provider="p").read_bytes() == b"b" * 100
    assert server.from_byte == [0, 0]


def test_a_connection_that_keeps_breaking_is_given_up(server: Server, checkpoints: Path, waits: list[float]) -> None:
    server.pages["/net.pth"] = b"weights"
    server.breaks, server.ranges = 99, False
    with pytest.raises(RCDMError, match=r"could not be fetched .*\(3 of 7 bytes arrived, after 5 tries\)"):
        resolve_weights(f"{server.url}/net.pth", None, provider="p")
    assert files(checkpoints) == [] and waits == [1, 2, 4, 8] and len(server.asked) == 5


def test_a_busy_server_is_asked_again_and_one_that_refuses_is_not(
    server: Server, checkpoints: Path, waits: list[float]
) -> None:
    server.pages["/net.pth"] = b"weights"
    server.codes = [503, 429]
    assert resolve_weights(f"{server.url}/net.pth", None, provider="p").read_bytes() == b"weights"
    assert waits == [1, 2]
    server.codes = [403]
    with pytest.raises(RCDMError, match="403"):
        resolve_weights(f"{server.url}/other.pth", None, provider="p")
    assert waits == [1, 2]
    server.breaks, server.codes = 1, []
    server.pages["/third.pth"] = b"weights"
    server.codes = []
    path = cache_path(f"{server.url}/third.pth", WeightsInfo())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: server.codes.append(416))  # "nothing is there": from the beginning
        patch.setattr("rcdm_core.download.TRIES", 3)
        with pytest.raises(RCDMError, match="416"):
            resolve_weights(f"{server.url}/third.pth", None, provider="p")
    assert not path.exists()


def test_a_full_disk_is_said_to_be_one(server: Server, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/net.pth"] = b"weights"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rcdm_core.atomic.sync_file", full)
    with pytest.raises(RCDMError, match=r"disk is full: .*net\.pth could not be written .*TORCH_HOME"):
        resolve_weights(f"{server.url}/net.pth", None, provider="p")
    assert files(checkpoints) == [] and len(server.asked) == 1


def test_files_with_one_name_are_kept_apart_by_their_url(server: Server, checkpoints: Path) -> None:
    server.pages |= {"/vicreg/resnet50.pth": b"one", "/barlow/resnet50.pth": b"two"}
    # What another project left under this name in torch.hub's cache is neither.
    checkpoints.mkdir(parents=True)
    (checkpoints / "resnet50.pth").write_bytes(b"three")
    first = resolve_weights(f"{server.url}/vicreg/resnet50.pth", None, provider="p")
    second = resolve_weights(None, WeightsInfo(url=f"{server.url}/barlow/resnet50.pth"), provider="p")
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")


def test_a_declared_digest_does_not_make_a_name_its_own(checkpoints: Path) -> None:
    """torch.hub may have another project's file of that name, and two plugins may share one."""
    url, digest = "https://example.org/v1/resnet50.pth", "ab" * 32
    path = cache_path(url, WeightsInfo(url=url, sha256=digest))
    assert path == cache_path(url, WeightsInfo()) and path.parent == checkpoints / "rcdm"
    assert cache_path(url, WeightsInfo(url=url, sha256=digest, own_name=True)) == checkpoints / "resnet50.pth"


def test_without_a_known_digest_the_first_one_is_recorded(server: Server, checkpoints: Path) -> None:
    server.pages["/resnet50.pth"] = b"one"
    url = f"{server.url}/resnet50.pth"
    path = resolve_weights(url, None, provider="p")
    assert resolve_weights(url, None, provider="p") == path
    path.write_bytes(b"tampered")
    with pytest.raises(RCDMError, match=r"is not the file that .*delete it and .*\.sha256"):
        resolve_weights(url, None, provider="p")
    path.unlink()
    path.with_name(path.name + ".sha256").unlink()
    assert resolve_weights(url, None, provider="p").read_bytes() == b"one"


def test_a_file_with_a_name_of_its_own_is_found_in_torch_hubs_cache(checkpoints: Path) -> None:
    checkpoints.mkdir(parents=True)
    (checkpoints / "dino_base.pth").write_bytes(b"weights")
    info = WeightsInfo(url="http://127.0.0.1:9/dino_base.pth", own_name=True)
    assert resolve_weights(None, info, provider="p") == checkpoints / "dino_base.pth"
    (checkpoints / "dino_base.pth").write_bytes(b"others")
    with pytest.raises(RCDMError, match="is not the file"):
        resolve_weights(None, info, provider="p")


def test_without_a_network_one_sentence_says_what_to_do(server: Server, checkpoints: Path) -> None:
    url = "http://127.0.0.1:9/net-0a1b2c3d.pth"
    with pytest.raises(RCDMError) as caught:
        resolve_weights(None, WeightsInfo(url=url), provider="dino")
    message = str(caught.value)
    assert all(part in message for part in ("dino", url, str(checkpoints / "net-0a1b2c3d.pth"), "--weights FILE"))
    assert "\n" not in message
    with pytest.raises(RCDMError, match="404"):
        resolve_weights(f"{server.url}/missing.pth", None, provider="p")


def test_a_cache_that_cannot_be_written_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "torch").write_text("a file where a folder should be")
    server.pages["/net.pth"] = b"weights"
    with pytest.raises(RCDMError, match=r"torch is a file, and a folder is needed there.*TORCH_HOME"):
        resolve_weights(f"{server.url}/net.pth", None, provider="p")


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_state_dicts_are_read_from_both_formats(tmp_path: Path) -> None:
    state = net().state_dict()
    torch.save(state, tmp_path / "net.pth")
    save_file(state, tmp_path / "net.safetensors")
    torch.save(state, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    for name in ("net.pth", "net.safetensors", "old.pth.tar"):
        read = read_state_dict(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)


class Trap:
    """What a malicious file does when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(TRAP),)  # type: ignore[return-value]


TRAP = ""


def test_files_that_are_no_state_dict_are_refused_in_one_sentence(tmp_path: Path) -> None:
    global TRAP
    TRAP = str(tmp_path / "trapped")
    contents: dict[str, object] = {
        "nested": {"epoch": 3, "state_dict": net().state_dict()},
        "list": [torch.zeros(2)],
        "empty": {},
        "namespace": {"args": argparse.Namespace(x=1), "w": torch.zeros(2)},
        "trap": {"w": Trap()},
    }
    words = {
        "nested": r"not a flat state dict of tensors: it holds epoch, state_dict",
        "list": "holds a list, expected a state dict",
        "empty": "it holds nothing",
        "namespace": r"not a flat state dict of tensors: it holds args;",
        "trap": r"not a flat state dict of tensors: it holds w;",
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
    torch.save(net().state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    save_file(net().state_dict(), tmp_path / "whole.safetensors")
    raw = {
        "cut.pth": whole[: len(whole) // 2],
        "cut.safetensors": (tmp_path / "whole.safetensors").read_bytes()[:100],
        "text.pth": b"not found\n",
        "nothing.pth": b"",
    }
    for name, data in raw.items():
        (tmp_path / name).write_bytes(data)
    cases = [(f"{name}.pth", words[name]) for name in contents] + [
        (name, "cannot be read|not a torch file") for name in (*raw, "missing.pth")
    ]
    for name, expected in cases:
        with pytest.raises(RCDMError, match=expected) as caught:
            read_state_dict(tmp_path / name)
        message = str(caught.value)
        assert name in message and "\n" not in message and len(message) < 400, message
        assert "weights_only" not in message  # torch's advice to read it unsafely is not handed on
    assert not Path(TRAP).exists()


def test_a_state_dict_is_loaded_strictly_and_in_brief(tmp_path: Path) -> None:
    state = net().state_dict()
    target = net()
    load_into(target, {**state, "fc.weight": torch.zeros(1)}, provider="p", path="f.pth", ignore=("fc.",))
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())
    load_into(net(), {k: v for k, v in state.items() if "num_batches" not in k}, provider="p", path="f.pth")
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    load_into(target, half, provider="p", path="f.pth")
    assert target[0].weight.dtype == torch.float32

    wrong = {
        **{f"block.{i}": torch.zeros(1) for i in range(5)},
        "0.weight": torch.zeros(4, 5),
        "0.bias": state["0.bias"],
    }
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(RCDMError) as caught:
        load_into(target, wrong, provider="dino", path="f.pth")
    message = str(caught.value)
    assert "f.pth does not fit dino" in message
    assert "6 missing (1.weight, 1.bias, 1.running_mean, …)" in message
    assert "5 unexpected (block.0, block.1, block.2, …)" in message
    assert "1 of another shape (0.weight is [4, 5] instead of [4, 3])" in message
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_a_listing_knows_which_weights_are_at_hand_without_torch(tmp_path: Path) -> None:
    """By torch's own rule for its cache, in a process that never imports torch."""
    code = (
        "import sys; from rcdm_core import find_provider; from rcdm_core.weights_cache import at_hand, cache_path;"
        "w = find_provider('dino-vitb16').weights; print(at_hand(w)); p = cache_path(w.url, w);"
        "p.parent.mkdir(parents=True); p.write_bytes(b'x'); print(at_hand(w) == p, p, 'torch' in sys.modules)"
    )
    for variables, folder in (
        ({"TORCH_HOME": str(tmp_path / "a")}, tmp_path / "a"),
        ({"XDG_CACHE_HOME": str(tmp_path / "b")}, tmp_path / "b" / "torch"),
    ):
        inherited = {k: v for k, v in os.environ.items() if k not in ("TORCH_HOME", "XDG_CACHE_HOME")}
        run = subprocess.run(
            [sys.executable, "-c", code], env=inherited | variables, capture_output=True, text=True, check=True
        )
        path = folder / "hub" / "checkpoints" / "dino_vitbase16_pretrain.pth"
        assert run.stdout.split("\n")[:2] == ["None", f"True {path} False"]


@pytest.mark.parametrize("damage", [b"", b"0123", b"\xff\xfe"], ids=["empty", "cut short", "not text"])
def test_a_damaged_record_of_a_digest_is_no_licence_to_take_any_file(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    source = tmp_path / "weights.pth"
    torch.save(net().state_dict(), source)
    path = resolve_weights(source.as_uri(), None, provider="p")
    record = path.with_name(path.name + ".sha256")
    assert resolve_weights(source.as_uri(), None, provider="p") == path
    record.write_bytes(damage)
    with pytest.raises(RCDMError, match=r"\.sha256, which says what .* cannot be read or is incomplete; delete both"):
        resolve_weights(source.as_uri(), None, provider="p")
