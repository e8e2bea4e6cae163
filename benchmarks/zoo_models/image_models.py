"""Image models of timm and torchvision, with random weights on small images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from zoo_models.operators import declare_operators

declare_operators()

Built = tuple[torch.nn.Module, Any, Any]


TIMM: dict[str, int] = {
    "resnet10t": 32,
    "resnet18": 32,
    "resnet50": 32,
    "resnetv2_50x1_bit": 32,
    "resnext26ts": 32,
    "seresnet18": 32,
    "skresnet18": 32,
    "ecaresnet26t": 32,
    "resnest14d": 32,
    "res2net50_26w_4s": 32,
    "regnetx_002": 32,
    "regnety_002": 32,
    "efficientnet_lite0": 32,
    "efficientnet_b0": 32,
    "mobilenetv2_050": 32,
    "mobilenetv3_small_050": 32,
    "mobilenetv4_conv_small": 32,
    "mnasnet_small": 32,
    "ghostnet_050": 32,
    "lcnet_035": 32,
    "tinynet_e": 32,
    "densenet121": 32,
    "dla34": 32,
    "repvgg_a0": 32,
    "mobileone_s0": 32,
    "convnext_atto": 32,
    "convnextv2_atto": 32,
    "convmixer_768_32": 32,
    "mixer_s32_224": 64,
    "gmlp_ti16_224": 64,
    "resmlp_12_224": 64,
    "vit_tiny_patch16_224": 64,
    "deit_tiny_patch16_224": 64,
    "cait_xxs24_224": 64,
    "xcit_nano_12_p16_224": 64,
    "swin_tiny_patch4_window7_224": 64,
    "poolformer_s12": 64,
    "pvt_v2_b0": 64,
    "edgenext_xx_small": 64,
    "fastvit_t8": 64,
    "levit_128s": 64,
    "nf_resnet26": 32,
    "hgnetv2_b0": 32,
}
SIZED = ("mixer", "gmlp", "resmlp", "vit", "deit", "cait", "xcit", "swin", "levit")  # they are built for one size
SMALL: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"depth": 2},
    "deit_tiny_patch16_224": {"depth": 2},
    "cait_xxs24_224": {"depth": 2},
    "xcit_nano_12_p16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"window_size": 4, "depths": (1, 2), "num_heads": (2, 4), "embed_dim": 16},
    "densenet121": {"block_config": (2, 2), "growth_rate": 8},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "edgenext_xx_small": {"depths": (1, 1, 2, 1)},
    "fastvit_t8": {"layers": (1, 1, 1, 1)},
}
BLOCKS = 2  # of those whose number is no option
TORCHVISION: dict[str, int] = {
    "alexnet": 64,
    "resnet18": 32,
    "resnet34": 32,
    "resnet50": 32,
    "resnext50_32x4d": 32,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
    "densenet121": 32,
    "inception_v3": 96,
    "googlenet": 32,
    "shufflenet_v2_x0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "mobilenet_v3_large": 32,
    "mnasnet0_5": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "regnet_x_400mf": 32,
    "regnet_y_400mf": 32,
    "convnext_tiny": 32,
    "vit_b_16": 32,
    "swin_t": 64,
    "swin_v2_t": 64,
    "maxvit_t": 64,
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "vit_b_16": {"image_size": 32},
    "inception_v3": {"init_weights": True, "aux_logits": False},
    "googlenet": {"init_weights": True, "aux_logits": False},
    "maxvit_t": {
        "stem_channels": 64,
        "partition_size": 2,
        "block_channels": [64, 128, 256, 512],
        "block_layers": [1, 1, 1, 1],
        "head_dim": 32,
        "stochastic_depth_prob": 0.2,
    },
}


def of_timm(name: str, size: int) -> Built:
    import timm

    options = SMALL.get(name, {}) | ({"img_size": size} if name.startswith(SIZED) else {})
    module = timm.create_model(name, pretrained=False, num_classes=3, **options)
    if name == "gmlp_ti16_224":
        module.blocks = module.blocks[:BLOCKS]
    return module, torch.randn(2, 3, size, size), None


def of_torchvision(name: str, size: int) -> Built:
    import torchvision

    arguments = {"num_classes": 3, **ARGUMENTS.get(name, {})}
    if name == "maxvit_t":  # the function of that name has windows of 7 by 7, for images of 224 by 224
        module = torchvision.models.MaxVit((size, size), **arguments)
    else:
        module = torchvision.models.get_model(name, weights=None, **arguments)
    if name == "vit_b_16":
        module.encoder.layers = module.encoder.layers[:BLOCKS]
    return module, torch.randn(2, 3, size, size), None


FROM_TIMM: dict[str, Callable[[], Built]] = {name: partial(of_timm, name, size) for name, size in TIMM.items()}
FROM_TORCHVISION: dict[str, Callable[[], Built]] = {
    name: partial(of_torchvision, name, size) for name, size in TORCHVISION.items()
}
