"""Tests of the standard ViT sizes, such as vit("L/16")."""

import dataclasses

import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.config.vit_sizes import vit
from signvit_jax.models.translator import abstract_model, count_parameters
from tests.helpers import tiny_model


def count_backbone_parameters(variant: str) -> int:
    """Return the number of parameters of the backbone, with positions for 224 x 224 pixels."""
    config = tiny_model.config(data__image_size=224)
    encoder = dataclasses.replace(config.model.encoder, **vit(variant))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))
    return count_parameters(abstract_model(config, tiny_model.VOCABULARY).encoder.backbone)


@pytest.mark.parametrize(
    ("variant", "expected"),
    # The numbers of parameters of timm's vit_*_patch*_224 without a classifier (num_classes=0).
    [
        ("Ti/16", 5_524_416),
        ("S/16", 21_665_664),
        ("B/16", 85_798_656),
        ("L/16", 303_301_632),
        ("H/14", 630_764_800),
    ],
)
def test_variants_have_as_many_parameters_as_in_timm(variant, expected):
    assert count_backbone_parameters(variant) == expected


def test_the_default_encoder_is_vit_l_16():
    assert EncoderConfig(**vit("L/16")) == EncoderConfig()


@pytest.mark.parametrize("variant", ["XL/16", "L", "L/0", "L/16/2", ""])
def test_an_unknown_variant_is_refused_with_a_list_of_the_sizes(variant):
    with pytest.raises(ConfigError, match=r"Ti, S, B, L, H"):
        vit(variant)
