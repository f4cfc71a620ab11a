"""Files of many versions of torch, read by a reader that never imports or calls what their pickles name."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import TOUCHED, Poison, foreign_object, save
from torch import Tensor

from rcdm_core import torch_file
from rcdm_core.torch_file import read_torch_file


@dataclass
class Name:
    """A global, by a name that need not exist here."""

    module: str
    name: str


@dataclass
class Call:
    """What an object is reduced to: a call, and the state that its result is given."""

    function: Name
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(eq=False)
class Storage:
    """Bytes beside the pickle, as elements of a type that is called `kind`."""

    kind: Name
    key: str
    data: bytes
    numel: int


class Writer(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes Names, Calls and Storages as torch.save would write the objects that they stand for."""

    def __init__(self, file: Any, legacy: bool) -> None:
        super().__init__(file, 2)
        self.legacy, self.storages = legacy, {}

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        self.storages[obj.key] = obj
        return ("storage", obj.kind, obj.key, "cpu", obj.numel, *([None] if self.legacy else []))

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def write(path: Path, content: Any, legacy: bool = False) -> Path:
    """A torch file of that content: an archive (since 1.6), or the pickles in a row of before."""
    body = io.BytesIO()
    writer = Writer(body, legacy)
    writer.dump(content)
    if not legacy:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", body.getvalue())
            archive.writestr("archive/byteorder", "little")
            for storage in writer.storages.values():
                archive.writestr(f"archive/data/{storage.key}", storage.data)
            archive.writestr("archive/version", "3\n")
        return path
    with path.open("wb") as file:
        for head in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}):
            pickle.dump(head, file, 2)
        file.write(body.getvalue())
        pickle.dump(sorted(writer.storages), file, 2)
        for key in sorted(writer.storages):
            file.write(writer.storages[key].numel.to_bytes(8, "little") + writer.storages[key].data)
    return path


FOREIGN = Call(Name("nowhere_to_be_found", "Config"), (), {"lr": 0.1})  # so that weights_only refuses the file
VALUES = np.arange(6, dtype=np.float32)
STORAGE = Storage(Name("torch", "FloatStorage"), "0", VALUES.tobytes(), 6)
BYTES = Storage(Name("torch.storage", "UntypedStorage"), "1", VALUES.tobytes(), 24)
OLD_BYTES = Storage(Name("torch", "_UntypedStorage"), "2", VALUES.tobytes(), 24)
HOOKS = Call(Name("collections", "OrderedDict"), ())


def utils(name: str, *arguments: Any) -> Call:
    return Call(Name("torch._utils", name), arguments)


FLOAT = Name("torch", "float32")
V2 = Name("torch._utils", "_rebuild_tensor_v2")
FROM_NUMPY, FROM_CPU = "_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor"


def v2(storage: Storage = STORAGE) -> Call:
    return utils("_rebuild_tensor_v2", storage, 0, (2, 3), (3, 1), False, HOOKS)


def text_as_bytes(data: bytes) -> Call:
    """Protocol 2 has no bytes."""
    return Call(Name("_codecs", "encode"), (data.decode("latin1"), "latin1"))


def array(
    package: str, dtype: str = "f4", order: str = "<", data: bytes = VALUES.tobytes(), columns: bool = False
) -> Call:
    kind = Call(Name("numpy", "dtype"), (dtype, False, True), (3, order, None, None, None, -1, -1, 0))
    start = (Name("numpy", "ndarray"), (0,), text_as_bytes(b"b"))
    state = (1, (2, 3), kind, columns, text_as_bytes(data))
    return Call(Name(f"{package}.multiarray", "_reconstruct"), start, state)


FORMS: dict[str, Call] = {
    "tensor": utils("_rebuild_tensor", STORAGE, 0, (2, 3), (3, 1)),
    "v2": v2(),
    "cuda": v2(Storage(Name("torch.cuda", "FloatStorage"), "0", VALUES.tobytes(), 6)),
    "v3": utils("_rebuild_tensor_v3", BYTES, 0, (2, 3), (3, 1), False, HOOKS, FLOAT),
    "v3 of 1.12": utils("_rebuild_tensor_v3", OLD_BYTES, 0, (2, 3), (3, 1), False, HOOKS, FLOAT),
    "parameter": utils("_rebuild_parameter", v2(), True, HOOKS),
    "parameter with state": utils("_rebuild_parameter_with_state", v2(), True, HOOKS, {"model_parallel": True}),
    "numpy 1": utils(FROM_NUMPY, array("numpy.core"), FLOAT, "xla:0", False),
    "numpy 2": utils(FROM_NUMPY, array("numpy._core"), FLOAT, "hpu", True),
    "xla": utils("_rebuild_xla_tensor", array("numpy.core"), FLOAT, "xla:1", False),
    "big-endian by columns": utils(
        "_rebuild_xla_tensor",
        array("numpy.core", "f8", ">", VALUES.reshape(2, 3).astype(">f8").tobytes("F"), columns=True),
        FLOAT, "xla:1", False,
    ),
    "from cpu": utils(FROM_CPU, v2(), FLOAT, "mtia", False),
    "subclass of 1.7": Call(
        Name("torch.tensor", "_rebuild_from_type"),
        (V2, Name("my", "Tensor"), v2().arguments, {"names": 1}),
    ),
    "attributes": Call(
        Name("torch._tensor", "_rebuild_from_type_v2"),
        (V2, Name("torch", "Tensor"), v2().arguments, {"sequence_parallel": True}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_which_torch_has_written_a_tensor(form: str, legacy: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", {"w": FORMS[form], "config": FOREIGN, "shared": [FORMS[form]]}, legacy)
    content = read_torch_file(path)
    for found in (content["w"], content["shared"][0]):
        assert isinstance(found, Tensor) and found.dtype == torch.float32 and found.device.type == "cpu"
        np.testing.assert_array_equal(found.detach().numpy(), VALUES.reshape(2, 3))
    assert not getattr(content["w"], "model_parallel", False)


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
def test_what_this_torch_writes_is_read_as_by_itself(legacy: bool, tmp_path: Path) -> None:
    numbers = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 6.0]])
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    kinds += [] if legacy else [torch.uint16, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2]  # new ones
    content: dict[str, Any] = {str(dtype): numbers.to(dtype) for dtype in kinds}
    content["view"] = numbers.t()[1:]
    content["parameter"] = torch.nn.Parameter(numbers.clone())
    content["parameter"].tensor_model_parallel = True
    content["attribute"] = numbers.clone()
    content["attribute"].sequence_parallel = True
    content["state"] = torch.nn.BatchNorm1d(2).state_dict()
    mine = {**content, "x": foreign_object()}
    read = read_torch_file(save(mine, tmp_path / "mine.pth", legacy))
    expected = torch.load(save(content, tmp_path / "plain.pth", legacy), weights_only=True)
    for name, value in expected.items():
        if name != "state":
            assert read[name].dtype == value.dtype and torch.equal(read[name].double(), value.double()), name
    assert isinstance(read["state"], OrderedDict) and torch.equal(read["state"]["weight"], torch.ones(2))


def test_the_forms_are_those_of_this_torch(tmp_path: Path) -> None:
    """What is made by hand here is read alike by torch itself, as far as it knows the forms."""
    own = [form for form in FORMS if "numpy" not in form and form not in ("subclass of 1.7", "v3 of 1.12", "xla")]
    for form in own:
        if form in ("big-endian by columns", "from cpu"):  # needs numpy allowed; needs that device
            continue
        content = torch.load(write(tmp_path / "file.pth", {"w": FORMS[form]}), weights_only=True, map_location="cpu")
        np.testing.assert_array_equal(content["w"].detach().numpy(), VALUES.reshape(2, 3), err_msg=form)
    before = io.BytesIO()
    pickle.dump(np.float32(VALUES).reshape(2, 3), before, 2)
    written = io.BytesIO()
    Writer(written, False).dump(array(np.ones(1).__reduce__()[0].__module__.rpartition(".")[0]))
    np.testing.assert_array_equal(pickle.loads(written.getvalue()), pickle.loads(before.getvalue()))


RUN = Name("os", "system")
BAD: dict[str, Any] = {
    "a call of the system": lambda command: Call(RUN, (command,)),
    "by an attribute": lambda command: Call(Name("torch.storage", "UntypedStorage.from_file"), (command, True, 8)),
    "through a rebuilt type": lambda command: Call(
        Name("torch._tensor", "_rebuild_from_type_v2"), (RUN, 0, (command,), {})
    ),
    "through numpy": lambda command: utils("_rebuild_xla_tensor", Call(RUN, (command,)), FLOAT, "cpu", 0),
    "an array of objects": lambda command: utils(
        "_rebuild_xla_tensor", array("numpy.core", "O", "|", command.encode()), FLOAT, "cpu", False
    ),
    "in hooks": lambda command: utils("_rebuild_tensor_v2", STORAGE, 0, (2, 3), (3, 1), False, Call(RUN, (command,))),
    "in state": lambda command: utils(
        "_rebuild_parameter_with_state", v2(), True, HOOKS, {"data": Call(RUN, (command,))}
    ),
    "as the encoding": lambda command: Call(Name("_codecs", "encode"), (command, "rot13")),
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("how", BAD)
def test_nothing_that_a_file_names_is_run(
    how: str, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = tmp_path / "touched"
    monkeypatch.setenv(TOUCHED, str(touched))
    command = Poison().__reduce__()[1][0]
    path = write(tmp_path / "file.pth", {"w": v2(), "bad": BAD[how](command), "x": FOREIGN}, legacy)
    try:
        content = read_torch_file(path)
        np.testing.assert_array_equal(content["w"].numpy(), VALUES.reshape(2, 3))
    except Exception as refused:
        assert isinstance(refused, pickle.UnpicklingError)
    assert not touched.exists() and sorted(file.name for file in tmp_path.iterdir()) == ["file.pth"]


def test_what_a_pickle_gets_cannot_be_changed_by_it(tmp_path: Path) -> None:
    """A later file would be read by what an earlier one left behind."""
    before = dict(torch_file._ALLOWED)
    for module, name in [*torch_file._ALLOWED, ("torch.storage", "UntypedStorage"), ("torch.storage", "TypedStorage")]:
        body = io.BytesIO()
        writer = Writer(body, False)
        writer.write(pickle.PROTO + b"\x02")
        writer.save(Name(module, name))
        writer.save((None, {"dtype": 3, "_function": 3, "x": 3}))
        writer.write(pickle.BUILD + pickle.STOP)
        with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
            archive.writestr("archive/data.pkl", body.getvalue())
            archive.writestr("archive/version", "3\n")
        with contextlib.suppress(pickle.UnpicklingError):  # nothing else is raised
            read_torch_file(tmp_path / "file.pth")
    assert before == torch_file._ALLOWED and not hasattr(torch.UntypedStorage, "x")
    path = write(tmp_path / "later.pth", {"w": FORMS["v3"], "x": FOREIGN})
    np.testing.assert_array_equal(read_torch_file(path)["w"].numpy(), VALUES.reshape(2, 3))


def test_the_wish_that_nothing_be_run_does_not_keep_files_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    path = save({"w": torch.ones(2), "more": foreign_object()}, tmp_path / "file.pth")
    assert torch.equal(read_torch_file(path)["w"], torch.ones(2))
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
