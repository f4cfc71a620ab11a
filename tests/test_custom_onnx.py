"""custom:FILE.onnx: models made by hand, against numpy, and one that torch exported, against the network."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rcdm_core import RCDMError, check_provider, load_encoder
from rcdm_core.encoder import fingerprint

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 6
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
PICTURES = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
WEIGHT = np.random.RandomState(0).standard_normal((3, 4)).astype(np.float32)


def write(
    path: Path,
    batch: Any = "batch",
    *,
    size: Any = SIZE,
    channels: Any = 3,
    dtype: int = TensorProto.FLOAT,
    weight: np.ndarray = WEIGHT,
    outputs: tuple[str, ...] = ("h", "maps"),
    more_inputs: tuple[str, ...] = (),
    external: bool = False,
) -> Path:
    """h = mean over positions @ weight; maps: a copy of the pictures."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["pictures"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["h"]),
            helper.make_node("Identity", ["pictures"], ["maps"]),
        ],
        "net",
        [
            helper.make_tensor_value_info("pictures", dtype, [batch, channels, size, size]),
            *(helper.make_tensor_value_info(name, dtype, [1]) for name in more_inputs),
        ],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(weight.astype(kind), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(
        model, str(path), save_as_external_data=external, location=f"{path.name}.data", size_threshold=0
    )
    return path


def load(path: Path, **options: Any) -> Any:
    return load_encoder(f"custom:{path}", options={"mean": MEAN, "std": STD, **options})


def expected(pictures: Tensor = PICTURES, weight: np.ndarray = WEIGHT) -> Tensor:
    normalised = (pictures.double().numpy() - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    return torch.from_numpy((normalised.mean((2, 3)) @ weight).astype(np.float32))


@pytest.mark.parametrize("batch", ["batch", None, 1, 3])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_any_number_of_pictures_whatever_the_batch_in_the_file(batch: Any, dtype: int, tmp_path: Path) -> None:
    encoder = load(write(tmp_path / "m.onnx", batch, dtype=dtype))
    assert (encoder.dim, encoder.image_size) == (4, SIZE)
    near = 1e-5 if dtype == TensorProto.FLOAT else 1e-2
    for count in (5, 3, 1, 0):
        h = encoder(PICTURES[:count])
        assert h.dtype == torch.float32
        torch.testing.assert_close(h, expected(PICTURES[:count]), atol=near, rtol=near)


def test_what_torch_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Weights beside the model, as torch writes them for larger networks.
        torch.onnx.export(net, (PICTURES,), str(path), dynamo=True, external_data=True, verbose=False)
    assert (tmp_path / "m.onnx.data").is_file()
    with torch.no_grad():
        h = net((PICTURES - torch.tensor(MEAN)[None, :, None, None]) / torch.tensor(STD)[None, :, None, None])
    torch.testing.assert_close(load(path)(PICTURES), h, atol=1e-5, rtol=1e-4)


def test_it_keeps_the_contract_but_for_the_gradient(tmp_path: Path) -> None:
    encoder = load(write(tmp_path / "m.onnx"))
    assert encoder.differentiable is False
    results = {result.name: result for result in check_provider(f"custom:{tmp_path}/m.onnx")}
    assert not [result for result in results.values() if result.passed is False]
    gradient = results["gradient in the images"]
    assert gradient.passed is None and gradient.detail.startswith("it says that it is not differentiable")
    with pytest.raises(RCDMError, match="the gradient of h in the pictures is needed here, and this encoder has none"):
        encoder(PICTURES.clone().requires_grad_())
    with torch.no_grad():
        encoder(PICTURES.clone().requires_grad_())


def test_one_of_several_outputs(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", outputs=("maps", "h"))
    torch.testing.assert_close(load(path, output="h")(PICTURES), expected(), atol=1e-5, rtol=1e-5)
    with pytest.raises(RCDMError, match=r"option output is 'g', but .*m\.onnx gives maps, h$"):
        load(path, output="g")
    with pytest.raises(RCDMError, match=r"output maps of .* is shape \[4, 3, 6, 6\] .*pooling.*output=NAME \(h\)$"):
        load(path)


def test_the_bytes_of_all_its_files_are_its_weights(tmp_path: Path) -> None:
    def digest() -> str:
        return fingerprint(load(tmp_path / "m.onnx")).weights_digest

    write(tmp_path / "m.onnx", external=True)
    before, model = digest(), (tmp_path / "m.onnx").read_bytes()
    assert digest() == before
    (tmp_path / "m.onnx.data").unlink()
    write(tmp_path / "m.onnx", external=True, weight=WEIGHT + 1)
    assert (tmp_path / "m.onnx").read_bytes() == model  # the change is in the file beside it alone
    assert digest() != before
    write(tmp_path / "m.onnx")
    inside = digest()
    write(tmp_path / "m.onnx", weight=WEIGHT + 1)
    assert digest() != inside
    (tmp_path / "m.onnx").write_bytes(model)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(RCDMError, match=r"m\.onnx has its weights in .*m\.onnx\.data, which does not exist: copy"):
        load(tmp_path / "m.onnx")


def test_the_size_may_be_open(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", size="side", channels="channels")
    assert load(path).image_size == 224
    encoder = load(path, image_size=SIZE)
    torch.testing.assert_close(encoder(PICTURES), expected(), atol=1e-5, rtol=1e-5)
    with pytest.raises(RCDMError, match=r"image_size of provider .* is 8, but m\.onnx takes pictures of 6 x 6"):
        load(write(tmp_path / "m.onnx"), image_size=8)


def test_what_is_wrong_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.onnx").read_bytes()
    for name, content in (("text", b"hello world"), ("empty", b""), ("cut", good[: len(good) // 2])):
        (tmp_path / f"{name}.onnx").write_bytes(content)
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.onnx")
    unknown = onnx.load(str(tmp_path / "good.onnx"))
    unknown.graph.node[0].op_type = "Imagined"
    onnx.save(unknown, str(tmp_path / "unknown.onnx"))
    write(tmp_path / "nhwc.onnx", channels=SIZE + 1, weight=np.ones((SIZE + 1, 4)))
    for name, dtype in (("double", TensorProto.DOUBLE), ("whole", TensorProto.INT64)):
        ends = [helper.make_tensor_value_info(end, dtype, ["b", 3, 6, 6]) for end in ("x", "h")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["h"])], "net", ends[:1], ends[1:])
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(tmp_path / f"{name}.onnx"))
    write(tmp_path / "two.onnx", more_inputs=("mask",))
    for name, words in [
        ("text", "is not an ONNX model"),
        ("empty", "is not an ONNX model"),
        ("cut", "is not an ONNX model, or damaged"),
        ("weights", "is not an ONNX model"),
        ("unknown", r"cannot be used by onnxruntime .*Imagined.*: export it again"),
        ("nhwc", r"takes float32 of shape \[any, 7, 6, 6\], expected float32 or float16 of shape \[B, 3, S, S\]"),
        ("double", r"takes float64 of shape .* expected float32 or float16"),
        ("whole", r"takes a tensor\(int64\), expected float32 or float16: export it for pictures"),
        ("two", "takes 2 inputs, expected one, the pictures"),
        ("nowhere", "does not exist in"),
    ]:
        with pytest.raises(RCDMError, match=words) as caught:
            load(tmp_path / f"{name}.onnx")
        assert f"{name}.onnx" in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_without_onnxruntime_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "rcdm_plugin_custom._onnx", raising=False)
    with pytest.raises(RCDMError, match=r"ONNX models need onnx and onnxruntime \(.*\): pip install 'rcdm\[onnx\]'"):
        load(write(tmp_path / "m.onnx"))


def test_it_says_once_that_it_stays_on_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = load(write(tmp_path / "m.onnx")).to("meta")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        with pytest.raises(RCDMError, match="cannot be used on meta"):  # from where nothing can be copied
            encoder(PICTURES.to("meta"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/m.onnx computes on the CPU: pictures are copied there from meta, and h back."
    ]
