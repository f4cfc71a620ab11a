"""A model out of a file as the network of an encoder: any number of pictures, one output, one vector a picture."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcdm_core import RCDMError, first_line

Run = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Input:
    """What a model says of the pictures that it takes.

    size         their side in pixels; None: any, or not said
    least, most  how many at once; most None: any number
    dtype        of their numbers
    """

    size: int | None = None
    least: int = 1
    most: int | None = None
    dtype: torch.dtype = torch.float32

    @classmethod
    def of_shape(cls, path: Path, shape: Sequence[int | None], dtype: torch.dtype) -> Input:
        """shape: None where any size will do.

        Raises RCDMError for what cannot be square pictures of three channels, in float32 or float16.
        """
        sides = {side for side in shape[2:] if side is not None}
        square = len(shape) == 4 and shape[1] in (3, None) and len(sides) <= 1
        if not square or dtype not in (torch.float32, torch.float16):
            shown = ", ".join("any" if side is None else str(side) for side in shape)
            raise RCDMError(
                f"{path} takes {str(dtype).removeprefix('torch.')} of shape [{shown}], expected float32 or float16 of "
                "shape [B, 3, S, S]: export it for square pictures, the channels before the sides"
            )
        batch = shape[0]
        return cls(next(iter(sides), None), batch or 1, batch, dtype)


class FileNetwork(nn.Module, abc.ABC):
    """Normalised images [B, 3, S, S] -> h [B, dim].

    Its weights count by the bytes of their files (`get_extra_state`): what an exporter folds into the program are
    weights as well. It holds no tensor itself: `placed` is asked for the model on the device that the pictures are on.

    path    the file
    output  which output is h; None: the first
    takes   what it says of its input
    files   all files that it consists of
    """

    def __init__(self, path: Path, output: str | None, takes: Input, files: Iterable[Path]) -> None:
        super().__init__()
        self.path = path
        self.output = output
        self.takes = takes
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        self._digest = torch.tensor(list(digest.digest()), dtype=torch.uint8)

    @abc.abstractmethod
    def placed(self, device: torch.device) -> Run:
        """The model on that device. Raises anything where it cannot be there."""

    def get_extra_state(self) -> Tensor:
        """sha256 of the files, uint8 [32]."""
        return self._digest

    def forward(self, images: Tensor) -> Tensor:
        """Raises RCDMError where the model fails on the pictures, or does not give one vector for each."""
        parts = []
        for part in images.split(self.takes.most or max(len(images), 1)):
            missing = max(self.takes.least - len(part), 0)
            # A batch of another size than it was exported for would be refused.
            full = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
            parts.append(self._h(self._run(full.to(self.takes.dtype)), len(full))[: len(part)])
        return torch.cat(parts)

    def _run(self, images: Tensor) -> Any:
        try:
            model = self.placed(images.device)
            return model(images)
        except RCDMError:
            raise
        except Exception as error:
            if images.device.type != "cpu":
                raise RCDMError(
                    f"{self.path} cannot be used on {images.device} ({reason(error)}): use --device cpu, or save the "
                    "model again from that device"
                ) from error
            side = images.shape[-1]
            raise RCDMError(
                f"{self.path} fails on pictures of {side} x {side} ({reason(error)}): if it takes another size, give "
                "it with --provider-option image_size=SIZE"
            ) from error

    def _h(self, outputs: Any, count: int) -> Tensor:
        named = _named(outputs)
        name = next(iter(named), "") if self.output is None else self.output
        if name not in named:
            raise RCDMError(f"option output is {name!r}, but {self.path} gives {', '.join(named) or 'nothing'}")
        h = named[name]
        if isinstance(h, Tensor) and h.ndim == 2 and len(h) == count:
            return h
        what = f"shape {list(h.shape)}" if isinstance(h, Tensor) else f"a {type(h).__name__}"
        others = [other for other in named if other != name]
        choice = f", or choose another with --provider-option output=NAME ({', '.join(others)})" if others else ""
        raise RCDMError(
            f"output {name} of {self.path} is {what} for {count} pictures, expected one vector each, [{count}, dim]: "
            f"save the model with its pooling, or a flatten, at the end{choice}"
        )


def _named(outputs: Any) -> dict[str, Any]:
    """Outputs by name, or by number where they have none."""
    if isinstance(outputs, Mapping):
        return {str(name): value for name, value in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        return {str(number): value for number, value in enumerate(outputs)}
    return {"0": outputs}


def reason(error: BaseException, path: Path | None = None) -> str:
    """What went wrong, in a line. TorchScript's interpreter says it last, after its own traceback.

    path: as for `first_line`.
    """
    lines = str(error).strip().splitlines()
    if lines and "TorchScript interpreter" in lines[0]:
        return lines[-1].strip()
    return first_line(error, path)
