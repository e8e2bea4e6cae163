"""Real data: the only reader of data files. Third-party imports inside the functions."""

from lazyscope.datasets.augment import crop_and_flip
from lazyscope.datasets.cifar import cifar10, write_cifar10
from lazyscope.datasets.controls import gaussian_images, shuffled_pixels, uniform_noise
from lazyscope.datasets.digits import CLASSES, digit_images, digits
from lazyscope.datasets.images import Images
from lazyscope.datasets.photographs import photographs

__all__ = [
    "CLASSES",
    "Images",
    "cifar10",
    "crop_and_flip",
    "digit_images",
    "digits",
    "gaussian_images",
    "photographs",
    "shuffled_pixels",
    "uniform_noise",
    "write_cifar10",
]
