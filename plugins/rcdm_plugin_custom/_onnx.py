"""ONNX models, run by onnxruntime on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm_core import RCDMError

from ._network import FileNetwork, Input, Run, reason

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise RCDMError(f"ONNX models need onnx and onnxruntime ({error}): pip install 'rcdm[onnx]'") from error

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
}
_log = logging.getLogger(__name__)


class OnnxNetwork(FileNetwork):
    """An ONNX model. Nothing is known of its gradient. Pictures on another device are copied to the CPU, and h back."""

    differentiable = False

    def __init__(self, path: Path, output: str | None) -> None:
        files = [path, *_external_files(path)]
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 4  # what it cannot do is raised as well
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            where = f"onnxruntime {onnxruntime.__version__}"
            raise RCDMError(f"{path} cannot be used by {where} ({reason(error, path)}): export it again") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise RCDMError(f"{path} takes {len(inputs)} inputs, expected one, the pictures: export it for those alone")
        outputs = {one.name: one.type for one in self._session.get_outputs()}
        chosen = next(iter(outputs)) if output is None else output
        if chosen not in outputs:
            raise RCDMError(f"option output is {chosen!r}, but {path} gives {', '.join(outputs)}")
        if not outputs[chosen].startswith("tensor(") or outputs[chosen] == "tensor(string)":
            raise RCDMError(f"output {chosen} of {path} is a {outputs[chosen]}, expected a tensor of numbers")
        # A model may leave out the shape altogether.
        shape = [side if isinstance(side, int) else None for side in inputs[0].shape or [None] * 4]
        dtype = _DTYPES.get(inputs[0].type)
        if dtype is None:
            raise RCDMError(f"{path} takes a {inputs[0].type}, expected float32 or float16: export it for pictures")
        super().__init__(path, chosen, Input.of_shape(path, shape, dtype), files)
        self._names = list(outputs)
        self._input = inputs[0].name
        self._said = False

    def placed(self, device: torch.device) -> Run:
        """It stays on the CPU, whatever the device."""
        if device.type != "cpu" and not self._said:
            self._said = True
            _log.warning("%s computes on the CPU: pictures are copied there from %s, and h back.", self.path, device)
        return self._compute

    def _compute(self, images: Tensor) -> dict[str, Any]:
        """All outputs by name; only the chosen one is computed into a tensor."""
        array = images.detach().cpu().contiguous().numpy()
        (value,) = self._session.run([self.output], {self._input: array})
        return dict.fromkeys(self._names) | {str(self.output): torch.from_numpy(value).to(images.device)}


def _external_files(path: Path) -> list[Path]:
    """The files beside an ONNX model that hold its larger tensors. Raises RCDMError for what is no ONNX model."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise RCDMError(f"{path} is not an ONNX model, or damaged ({reason(error)}): export it again") from error
    if not model.graph.node:
        raise RCDMError(f"{path} is not an ONNX model: it has no operator; export it again")
    places = {entry.value for tensor in _tensors(model) for entry in tensor.external_data if entry.key == "location"}
    files = [path.parent / place for place in sorted(places)]
    for file in files:
        if not file.is_file():
            raise RCDMError(f"{path} has its weights in {file}, which does not exist: copy that file too")
    return files


def _tensors(model: Any) -> Iterator[Any]:
    """Those of a model's graph, of its functions, and of the graphs inside their operators."""
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        yield from getattr(graph, "initializer", ())
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t, *attribute.tensors]
                graphs += [inner for inner in (attribute.g, *attribute.graphs) if inner.node]
