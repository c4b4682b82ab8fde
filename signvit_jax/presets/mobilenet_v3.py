r"""The mobile model: MobileNetV3-Large on every frame and a decoder of width 256.

It is trained alone, or as the student of a larger model:

    python -m signvit_jax.train --config=mobilenet_v3 --workdir=runs/mobilenet_v3 \
        --config.data.name=isign --config.data.data_dir=data
    python -m signvit_jax.distill --config=mobilenet_v3 --workdir=runs/mobilenet_v3 \
        --teacher=runs/dense_vit ...

Start from ImageNet if you can: --config.model.encoder.pretrained=FILE with torchvision's or timm's
weights (docs/pretrained.md).
Model: 2,971,952 parameters in the features, 15.9M in all with a 30,522-word vocabulary, whose
matrix the decoder and the CTC head share. Data and tokens are those of `dense_vit.py`, its teacher.

Hardware, as planned by scripts/make_hardware.py: 12.8 GiB on one 16 GB GPU; 11.2 GiB on each of 4
v5e.

Not trained to the end yet.
"""

from ml_collections import ConfigDict

from signvit_jax.presets import dense_vit


def get_config() -> ConfigDict:
    values = dense_vit.get_config().to_dict()
    values["model"]["encoder"] = {
        "backbone": "mobilenet_v3_large",
        "output_dim": 960,
        "batch_norm_momentum": 0.1,
    }
    config = ConfigDict(values)
    config.update(
        {
            "model": {
                "temporal": {"num_heads": 8},
                "decoder": {"hidden_dim": 256, "ff_dim": 512},
                "ctc": {"tied": True},
            },
            "training": {"encoder_lr": 3e-4, "decoder_lr": 3e-4, "remat": "full"},
        }
    )
    return config
