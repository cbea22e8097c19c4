"""Each network is the one of the papers' tables: parameters, shapes and multiply-accumulates."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import models

CIFAR = (16, 32), (16, 32), (32, 16), (64, 8)
CIFAR_X4 = (32, 32), (64, 32), (128, 16), (256, 8)
WRN_2 = (16, 32), (32, 32), (64, 16), (128, 8)
VGG = (64, 32), (128, 16), (256, 8), (512, 4), (512, 4)
DEEP = (64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)
BASIC_IMAGENET = (64, 8), (64, 8), (128, 4), (256, 2), (512, 1)
DEEP_IMAGENET = (64, 8), (256, 8), (512, 4), (1024, 2), (2048, 1)

# name: parameters, (channels, size) or (channels, rows, columns) of stem and stages, embedding length,
# published MMAC (None: not published)
TABLE = {
    "resnet8": (83_892, CIFAR, 64, "12.5"),
    "resnet14": (181_108, CIFAR, 64, None),
    "resnet20": (278_324, CIFAR, 64, "40.8"),
    "resnet32": (472_756, CIFAR, 64, "69.1"),
    "resnet44": (667_188, CIFAR, 64, None),
    "resnet56": (861_620, CIFAR, 64, "125.8"),
    "resnet110": (1_736_564, CIFAR, 64, "253.2"),
    "resnet8x4": (1_233_540, CIFAR_X4, 256, "177.1"),
    "resnet32x4": (7_433_860, CIFAR_X4, 256, "1083"),
    "wrn_16_1": (180_916, CIFAR, 64, "26.7"),
    "wrn_16_2": (703_284, WRN_2, 128, "101.1"),
    "wrn_40_1": (569_780, CIFAR, 64, "83.3"),
    "wrn_40_2": (2_255_156, WRN_2, 128, "327.6"),
    "vgg8": (3_965_028, VGG, 512, "96.2"),
    "vgg11": (9_277_284, VGG, 512, None),
    "vgg13": (9_462_180, VGG, 512, "284.9"),
    "vgg16": (14_774_436, VGG, 512, None),
    "vgg19": (20_086_692, VGG, 512, None),
    "ResNet50": (23_705_252, DEEP, 2048, "1298"),
    "MobileNetV2": (812_836, ((16, 16), (12, 16), (16, 8), (48, 4), (160, 2)), 1280, "6.5"),
    "MobileNetV2_hsakd": (812_836, ((16, 32), (12, 32), (16, 16), (48, 8), (160, 4)), 1280, None),
    "ShuffleV1": (949_258, ((24, 32), (240, 16), (480, 8), (960, 4)), 960, "38.7"),
    "ShuffleV2": (1_355_528, ((24, 32), (116, 16), (232, 8), (464, 4)), 1024, "44.5"),
    "ResNet18": (11_220_132, ((64, 32), (64, 32), (128, 16), (256, 8), (512, 4)), 512, None),
    "ResNet50_default": (23_705_252, DEEP, 2048, "1298"),
    "ResNet101": (42_697_380, DEEP, 2048, None),
    "ResNeXt50": (23_177_124, DEEP, 2048, None),
    "DenseNet121": (7_048_676, ((64, 32), (256, 32), (512, 16), (1024, 8), (1024, 4)), 1024, None),
    "resnet18_imagenet": (11_227_812, BASIC_IMAGENET, 512, None),
    "resnet34_imagenet": (21_335_972, BASIC_IMAGENET, 512, None),
    "resnet50_imagenet": (23_712_932, DEEP_IMAGENET, 2048, None),
    "resnet101_imagenet": (42_705_060, DEEP_IMAGENET, 2048, None),
    "mobilenetv1_imagenet": (3_309_476, ((32, 16), (128, 8), (256, 4), (512, 2), (1024, 1)), 1024, None),
    "mobilenetv2_imagenet": (2_351_972, ((32, 16), (24, 8), (32, 4), (96, 2), (320, 1)), 1280, None),
    "shufflev2_imagenet": (1_356_104, ((24, 8), (116, 4), (232, 2), (464, 1)), 1024, None),
    "efficientnet_lite0": (3_499_108, ((32, 16), (24, 8), (40, 4), (112, 2), (320, 1)), 1280, None),
    "crnn_64": (495_396, ((64, 32), (64, 32, 16), (128, 32, 8), (128, 32, 4), (128, 32, 1)), 128, None),
    "crnn_16": (34_068, ((16, 32), (16, 32, 16), (32, 32, 8), (32, 32, 4), (32, 32, 1)), 32, None),
}


def test_every_network_is_in_the_table() -> None:
    assert models.names() == tuple(TABLE)
    assert not [name for name in models.names() if "-" in name or ":" in name]


@pytest.mark.parametrize("name", TABLE)
def test_info(name: str) -> None:
    params, maps, embedding, mmac = TABLE[name]
    info = models.info(name)
    assert info.name == name
    assert info.params == params
    assert (info.stem_shape, *info.stage_shapes) == tuple(m if len(m) == 3 else (*m, m[1]) for m in maps)
    assert info.embedding_dim == embedding
    if mmac is not None:
        digits = len(mmac.partition(".")[2])
        assert f"{info.macs / 1e6:.{digits}f}" == mmac


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "crnn_16"]
)
def test_info_is_what_build_gives(name: str) -> None:
    info = models.info(name, 7)
    net = models.build(name, 7)
    features = net.features(torch.zeros(2, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in features.maps] == [info.stem_shape, *info.stage_shapes]
    assert [p.shape for p in features.preacts] == [s.shape for s in features.stages]
    assert features.embedding.shape == (2, info.embedding_dim)
    assert features.logits.shape == (2, 7)
    assert sum(p.numel() for p in net.parameters()) == info.params
    assert (net.linear_head().in_features, net.linear_head().out_features) == (info.embedding_dim, 7)
    assert net.name == name


def test_the_mobile_net_of_hsakd_has_maps_of_twice_the_size() -> None:
    """All but the classifier, which works on the pooled map, costs four times as much."""
    classifier = 1280 * 100
    usual, theirs = (models.info(name).macs - classifier for name in ("MobileNetV2", "MobileNetV2_hsakd"))
    assert theirs == 4 * usual


def test_macs_of_a_layer_counted_by_hand() -> None:
    # ShuffleV1's classifier is the only part that depends on the classes.
    assert models.info("ShuffleV1", 11).macs - models.info("ShuffleV1", 1).macs == 10 * 960


def test_macs_of_a_tagger_counted_by_hand() -> None:
    """Convolutions count once for each output position.

    The GRU has six matrices (three gates, of input and state), counted once per frame and direction.
    """
    frames, c = 32, 16
    stem, *stages = (32 * 3 * c, 16 * c * c, 8 * c * 2 * c, 4 * 2 * c * 2 * c)
    gru = 2 * 3 * c * (2 * c * 4 + c)
    assert models.info("crnn_16", 10).macs == frames * (9 * (stem + sum(stages)) + gru) + 2 * c * 10


def test_info_is_cached_frozen_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    info = models.info("vgg8", 3)
    assert torch.equal(before, torch.get_rng_state())
    assert models.info("vgg8", 3) is info
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.params = 0  # type: ignore[misc]


def test_unknown_names_and_numbers() -> None:
    for call in (models.build, models.info):
        with pytest.raises(models.UnknownNetwork) as caught:
            call("resnet9")
        assert str(caught.value).startswith("unknown network 'resnet9'; allowed: resnet8, ")
        assert "\n" not in str(caught.value)
    assert issubclass(models.UnknownNetwork, ValueError)
    with pytest.raises(ValueError, match="num_classes is 0"):
        models.build("resnet8", 0)
