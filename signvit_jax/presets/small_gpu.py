r"""`small.py` for one GPU: larger images, twice the width, bf16, larger batches.

    python -m tfds_builders.build synthetic_signs --data_dir=data --num_train=10000 \
        --num_validation=500 --num_test=500 --size=112
    python -m signvit_jax.train --config=small_gpu --workdir=runs/small_gpu \
        --config.data.data_dir=data

Not run on a GPU yet: speed and result are unknown.
"""

from ml_collections import ConfigDict

from signvit_jax.presets import small


def get_config() -> ConfigDict:
    config = small.get_config()
    config.update(
        {
            "model": {
                "encoder": {
                    "output_dim": 256,
                    "vit_hidden_dim": 256,
                    "vit_num_heads": 4,
                    "vit_num_layers": 4,
                    "vit_mlp_dim": 1024,
                },
                "temporal": {"num_attention_layers": 2},
                "decoder": {"hidden_dim": 256, "ff_dim": 1024},
            },
            "training": {
                "batch_size": 64,
                "num_epochs": 30,
                "ctc_flat_start_steps": 1000,
                "use_amp": True,
                "scan_layers": True,
            },
            "data": {"image_size": 112, "num_workers": 8},
        }
    )
    return config
