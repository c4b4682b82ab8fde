r"""`dense_vit.py` at the size that the reference states: about 100M parameters, 400 MB in float32.

    python -m signvit_jax.train --config=dense_vit_100m --workdir=runs/dense_vit_100m \
        --config.data.name=isign --config.data.data_dir=data

Model: ViT-B/16 (85.8M) and a decoder of width 240; 98.0M parameters with a 16,000-word vocabulary.

Hardware, as planned by scripts/make_hardware.py: 12.7 GiB on one 24 GB GPU; 6.0 GiB on each of 4
v5e with --config.mesh.fsdp=4.

Not trained to the end yet.
"""

from ml_collections import ConfigDict

from signvit_jax.config.vit_sizes import vit
from signvit_jax.presets import dense_vit


def get_config() -> ConfigDict:
    config = dense_vit.get_config()
    config.update(
        {
            "model": {
                "encoder": vit("B/16"),
                "temporal": {"num_heads": 8},
                "decoder": {"hidden_dim": 240, "ff_dim": 480},
            },
            "training": {"encoder_lr": 1e-4, "decoder_lr": 3e-4, "gradient_accumulation": 2},
            "tokenizer": {"vocab_size": 16_000},
        }
    )
    return config
