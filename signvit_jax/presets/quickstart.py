r"""Learns in minutes, on two CPU cores, to translate new sentences by new signers.

`scripts/quickstart.sh` runs it:

    python -m tfds_builders.build synthetic_signs --data_dir=data --num_signs=16 --max_signs=5 \
        --frame_rate=7.5 --size=48 --num_train=1920 --num_validation=64 --num_test=280
    python -m signvit_jax.train --config=quickstart --workdir=runs/quickstart

It is `small` with magnitudes of motion, smaller images, fewer frames and smaller batches: a
language of 16 signs and sentences of 2 to 5 needs no more. docs/learning.md has its word error
rates.
"""

from ml_collections import ConfigDict

from signvit_jax.presets import small


def get_config() -> ConfigDict:
    config = small.get_config()
    config.update(
        {
            "model": {"encoder": {"motion": "magnitude"}},
            "data": {
                "image_size": 48,
                "frame_rate": 7.5,
                "num_frames": 32,
                "frame_buckets": (32,),
            },
            "training": {
                "batch_size": 8,
                "num_epochs": 4,
                "min_steps": 0,
                "ctc_flat_start_steps": 1000,
                "ema_decay": 0.985,  # averages about the last 70 steps: the run is short
                "save_every_n_epochs": 2,
                "num_sample_predictions": 3,
            },
        }
    )
    return config
