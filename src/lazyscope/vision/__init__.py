"""VGG-11 and ResNet-18 without batch norm, as in Chizat et al. 2019, exact in float32 at any output scale."""

from lazyscope.vision.networks import network, resnet18, vgg11

__all__ = ["network", "resnet18", "vgg11"]
