r"""The mobile model: MobileNetV3-Large on every frame and a decoder of width 256.

It is trained as the student of a larger model, or alone:

    python -m signvit_jax.train --config=configs/mobilenet_v3.py --workdir=runs/mobilenet_v3 \
        --config.data.name=isign --config.data.data_dir=data
    python -m signvit_jax.distill --config=configs/mobilenet_v3.py --workdir=runs/mobilenet_v3 \
        --teacher=runs/dense_vit ...

Start from ImageNet if you can: --config.model.encoder.pretrained=FILE with torchvision's or timm's
weights (docs/pretrained.md).
Model: 2,971,952 parameters in the features, 15.9M in all with a 30,522-word vocabulary, whose
matrix the decoder and the CTC head share. Data and tokens are those of `dense_vit.py`, its teacher.
Not trained to the end yet.
"""

from ml_collections import ConfigDict

from configs import dense_vit


def get_config() -> ConfigDict:
    config = dense_vit.get_config()
    config.model.encoder = {
        "backbone": "mobilenet_v3_large",
        "output_dim": 960,
        "batch_norm_momentum": 0.1,
    }
    config.model.temporal.num_heads = 8
    config.model.decoder.update(hidden_dim=256, ff_dim=512)
    config.model.ctc.tied = True
    config.training.update(encoder_lr=3e-4, decoder_lr=3e-4, remat="full")
    return config
