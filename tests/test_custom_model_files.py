"""custom:FILE.pt and FILE.pt2: models that torch saved, against the networks that they were saved from."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcdm_core import RCDMError, check_provider, find_provider, load_encoder
from rcdm_core.encoder import fingerprint

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 12
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
PICTURES = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Has what is easily lost: a constant that is no buffer, a buffer that is not saved, batch norm and dropout.

    returns: how the outputs are wrapped.
    """

    def __init__(self, returns: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.last = nn.Linear(4, 5)
        self.shift = torch.arange(5.0)
        self.register_buffer("scale", torch.linspace(1, 2, 5), persistent=False)
        self.norm.running_mean.copy_(torch.linspace(-1, 1, 4))  # type: ignore[operator,union-attr]
        self.returns = returns
        self.eval()

    def forward(self, x: Tensor) -> Any:
        maps = self.norm(self.conv(x)).relu()
        h = self.last(self.drop(maps.mean((2, 3)))) * self.scale + self.shift
        if self.returns == "tuple":
            return maps, h
        if self.returns == "dict":
            return {"maps": maps, "h": h}
        return maps if self.returns == "maps" else h


def script(path: Path, net: nn.Module, freeze: bool = False, pictures: Tensor = PICTURES) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, pictures, strict=False)
        torch.jit.save(torch.jit.freeze(traced) if freeze else traced, str(path))
    return path


def export(path: Path, net: nn.Module, batch: Any = torch.export.Dim.DYNAMIC, pictures: Tensor = PICTURES) -> Path:
    """batch: a Dim, or a number for a batch of fixed size."""
    fixed = isinstance(batch, int)
    inputs = pictures[:1].repeat(batch, 1, 1, 1) if fixed else pictures
    torch.export.save(torch.export.export(net, (inputs,), dynamic_shapes=None if fixed else ({0: batch},)), path)
    return path


def load(path: Path, **options: Any) -> Any:
    return load_encoder(f"custom:{path}", options={"mean": MEAN, "std": STD, **options})


def expected(pictures: Tensor = PICTURES) -> Tensor:
    """h of the plain network, normalised by hand."""
    with torch.no_grad():
        normalised = (pictures - torch.tensor(MEAN)[None, :, None, None]) / torch.tensor(STD)[None, :, None, None]
        h: Tensor = Net()(normalised)
        return h


MODELS: dict[str, Callable[[Path], Path]] = {
    "traced": lambda folder: script(folder / "m.pt", Net()),
    "frozen": lambda folder: script(folder / "m.pt", Net(), freeze=True),
    "any batch": lambda folder: export(folder / "m.pt2", Net()),
    "one picture": lambda folder: export(folder / "m.pt2", Net(), 1),
    "three pictures": lambda folder: export(folder / "m.pt2", Net(), 3),
    "two to four": lambda folder: export(folder / "m.pt2", Net(), torch.export.Dim("b", min=2, max=4), PICTURES[:3]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_file_is_the_network_that_it_was_saved_from(
    kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    path = MODELS[kind](tmp_path)
    recwarn.clear()
    capfd.readouterr()
    encoder = load(path, image_size=SIZE)
    assert not recwarn.list and capfd.readouterr() == ("", "")  # torch deprecates TorchScript: not the user's concern
    assert (encoder.dim, encoder.image_size, encoder.differentiable) == (5, SIZE, True)
    for count in (5, 4, 2, 1, 0):
        torch.testing.assert_close(encoder(PICTURES[:count]), expected(PICTURES[:count]), atol=1e-6, rtol=1e-5)
    leaf, plain = PICTURES.clone().requires_grad_(), PICTURES.clone().requires_grad_()
    encoder(leaf).square().sum().backward()
    with torch.enable_grad():
        normalised = (plain - torch.tensor(MEAN)[None, :, None, None]) / torch.tensor(STD)[None, :, None, None]
        Net()(normalised).square().sum().backward()
    assert leaf.grad is not None and plain.grad is not None
    torch.testing.assert_close(leaf.grad, plain.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["traced", "two to four"])
def test_a_model_file_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    path = MODELS[kind](tmp_path)
    results = check_provider(f"custom:{path}", options={"image_size": SIZE})
    assert [result for result in results if result.passed is False] == []
    undecided = [] if kind != "traced" or scripts_run_without_a_device(path) else ["moves to a device"]
    assert [result.name for result in results if result.passed is None] == undecided


def scripts_run_without_a_device(path: Path) -> bool:
    """Whether torch's interpreter convolves on the meta device, which that of 2.6 does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.load(str(path), map_location="meta")
    try:
        return bool(model(PICTURES.to("meta")).shape)
    except NotImplementedError:
        return False


def test_the_size_is_the_files_own(tmp_path: Path) -> None:
    program = export(tmp_path / "m.pt2", Net())
    assert load(program).image_size == SIZE
    with pytest.raises(RCDMError, match=r"image_size of provider .* is 16, but m\.pt2 takes pictures of 12 x 12"):
        load(program, image_size=16)
    assert load(script(tmp_path / "m.pt", Net())).image_size == 224  # TorchScript does not say
    fixed = script(tmp_path / "fixed.pt", nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4)))
    with pytest.raises(
        RCDMError, match=r"fixed\.pt fails on pictures of 224 x 224 \(RuntimeError: mat1 and mat2.*image_size=SIZE"
    ):
        load(fixed)


@pytest.mark.parametrize("kind", ["frozen", "any batch"])
def test_constants_count_as_weights(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in no state dict; nor is anything of a frozen model."""

    def digest(path: Path) -> str:
        return fingerprint(load(path, image_size=SIZE)).weights_digest

    path = MODELS[kind](tmp_path)
    copy = tmp_path / f"copy{path.suffix}"
    copy.write_bytes(path.read_bytes())
    before = digest(path)
    assert digest(copy) == before
    monkeypatch.setattr(torch, "arange", lambda end: torch.linspace(1, end, 5))  # what `shift` is made of
    assert digest(MODELS[kind](tmp_path)) != before


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
@pytest.mark.parametrize(("returns", "name"), [("tuple", "1"), ("dict", "h")])
def test_one_of_several_outputs(ending: str, returns: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{ending}"
    script(path, Net(returns)) if ending == ".pt" else export(path, Net(returns))
    torch.testing.assert_close(load(path, image_size=SIZE, output=name)(PICTURES), expected(), atol=1e-6, rtol=1e-5)
    with pytest.raises(RCDMError, match=rf"is shape \[4, 4, 5, 5\] for 4 .*pooling.*choose another .*\({name}\)"):
        load(path, image_size=SIZE)
    with pytest.raises(RCDMError, match=rf"option output is 'g', but .* gives .*{name}"):
        load(path, image_size=SIZE, output="g")


def test_half_precision(tmp_path: Path) -> None:
    net = nn.Sequential(nn.AvgPool2d(SIZE), nn.Flatten(), nn.Linear(3, 4))
    full = net(PICTURES).detach()
    for path in (
        script(tmp_path / "m.pt", net.half(), pictures=PICTURES.half()),
        export(tmp_path / "m.pt2", net.half(), pictures=PICTURES.half()),
    ):
        h = load_encoder(f"custom:{path}", image_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1))(PICTURES)
        assert h.dtype == torch.float32
        torch.testing.assert_close(h, full, atol=2e-3, rtol=2e-3)


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y).mean((2, 3))


def test_models_that_take_no_pictures_are_refused(tmp_path: Path) -> None:
    last = export(tmp_path / "nhwc.pt2", nn.Flatten(), pictures=PICTURES.permute(0, 2, 3, 1).contiguous())
    with pytest.raises(RCDMError, match=r"takes float32 of shape \[any, 12, 12, 3\], expected .*\[B, 3, S, S\]"):
        load(last)
    whole = export(tmp_path / "int.pt2", nn.Flatten(), pictures=PICTURES.to(torch.uint8))
    with pytest.raises(RCDMError, match=r"takes uint8 of shape"):
        load(whole)
    torch.export.save(torch.export.export(Two(), (PICTURES, PICTURES)), tmp_path / "two.pt2")
    with pytest.raises(RCDMError, match=r"two\.pt2 takes 2 arguments, expected one, the pictures"):
        load(tmp_path / "two.pt2")


@pytest.mark.parametrize("part", [nn.BatchNorm2d(3), nn.Dropout()])
def test_a_program_in_training_mode_is_refused(part: nn.Module, tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", nn.Sequential(part, nn.Flatten()).train())
    with pytest.raises(RCDMError, match=r"exported in training mode: call eval\(\)"):
        load(path)


def damaged(path: Path, change: Callable[[bytearray], Any]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


WEIGHTS = r"(flipped/data/.*|serialized_state_dict\.pt)"  # in an archive; torch 2.6 put an archive into the archive


def flip_a_weight(data: bytearray) -> None:
    data[data.index(Net().last.weight.detach().numpy().tobytes())] ^= 1


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_what_is_wrong_with_a_file_is_one_sentence(
    ending: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def make(name: str = "m") -> Path:
        path = tmp_path / f"{name}{ending}"
        return script(path, Net()) if ending == ".pt" else export(path, Net())

    def saved(name: str, **how: Any) -> Path:
        torch.save(Net().state_dict(), tmp_path / f"{name}{ending}", **how)
        return tmp_path / f"{name}{ending}"

    other = make().rename(tmp_path / ("other.pt2" if ending == ".pt" else "other.pt"))
    text, folder = tmp_path / f"text{ending}", tmp_path / f"folder{ending}"
    text.write_text("hello")
    folder.mkdir()
    archive = tmp_path / f"zip{ending}"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/b", "c")
    weights = "holds weights, not a model: write a function that builds the network, .* with --weights"
    for path, words in [
        (damaged(make(), cut), "is cut short or damaged"),
        (damaged(make("flipped"), flip_a_weight), rf"is damaged \(in {WEIGHTS}\), expected a model that torch\."),
        (text, "is no model file at all, expected a model that"),
        (archive, "is an archive of something else, expected a model that"),
        (folder, "is a folder: give the path of a model file"),
        (tmp_path / f"nowhere{ending}", f"nowhere{ending} in .* does not exist in"),
        (saved("new"), weights),
        (saved("old", _use_new_zipfile_serialization=False), weights),
        (other, f"was written by torch\\..*: let its name end in \\{ending}$"),
    ]:
        with pytest.raises(RCDMError, match=words) as caught:
            load(path)
        assert str(path.name) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RCDMError, match=r"holds weights of its own: leave out --weights w\.pth"):
        load_encoder(f"custom:{make('whole')}", weights="w.pth")
    assert capfd.readouterr().err == ""


def test_what_torch_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    """Whole archives, of another version or by hand."""
    for name, inside, words in [
        ("a.pt", "constants.pkl", r"a\.pt cannot be read \(.*\): save it again with torch\.jit\.save of torch"),
        ("a.pt2", "models/model.json", r"a\.pt2 cannot be read \(.*\): save it again with torch\.export\.save"),
        ("b.pt2", "data/aotinductor/model/x.so", "is compiled for one machine by AOTInductor, expected a model that"),
    ]:
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr(f"x/{inside}", "nothing")
        with pytest.raises(RCDMError, match=words) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


class OnTheCpu(nn.Module):
    """Tracing writes down where the zeros are."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.zeros(3)


def test_a_device_that_a_model_cannot_be_on_is_one_sentence(tmp_path: Path) -> None:
    encoder = load(script(tmp_path / "m.pt", OnTheCpu()), image_size=SIZE)
    with pytest.raises(RCDMError, match=r"m\.pt cannot be used on meta \(.*\): use --device cpu, or save the model ag"):
        encoder.to("meta")(PICTURES.to("meta"))


def test_a_listing_names_the_options_and_what_trust_it_takes(tmp_path: Path) -> None:
    script(tmp_path / "m.pt", Net())
    provider = find_provider(f"custom:{tmp_path}/m.pt")
    assert set(provider.options) == {"image_size", "output", "mean", "std", "interpolation"}
    assert provider.name == f"custom:{tmp_path}/m.pt" and provider.source == tmp_path / "m.pt"
    (tmp_path / "m.pt2").write_text("not read when it is only named")
    assert "trust who made it" in find_provider(f"custom:{tmp_path}/m.pt2").summary
