"""The provider without a representation."""

from __future__ import annotations

import pytest
import torch

from rcdm_core import RCDMError, fingerprint, load_encoder


def test_h_is_empty() -> None:
    encoder = load_encoder("none")
    assert encoder.dim == 0
    h = encoder(torch.rand(3, 3, encoder.image_size, encoder.image_size))
    assert h.shape == (3, 0) and h.dtype == torch.float32
    assert fingerprint(encoder).h.shape == (4, 0)


def test_it_takes_no_weights() -> None:
    with pytest.raises(RCDMError, match=r"provider none has no network, .*--weights a\.pth"):
        load_encoder("none", weights="a.pth")
