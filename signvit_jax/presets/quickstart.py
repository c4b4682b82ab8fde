r"""A few minutes on two CPU cores: from drawn signs to text, with all parts of a real run.

`scripts/quickstart.sh` runs it:

    python -m tfds_builders.build synthetic_signs --data_dir=data --num_train=600 \
        --num_validation=48 --num_test=48
    python -m signvit_jax.train --config=quickstart --workdir=runs/quickstart

Expect: the loss falls and sentences take shape; far too short to translate new signers correctly.
"""

from ml_collections import ConfigDict

from signvit_jax.presets import overfit_small


def get_config() -> ConfigDict:
    values = overfit_small.get_config().to_dict()
    values["data"] = {
        "name": "synthetic_signs",
        "image_size": 48,
        "resize_mode": "squash",
        "sampling": "rate",
        "frame_rate": 6.25,
        "num_frames": 32,
        "augment": {
            "translate": 0.05,
            "scale": 0.1,
            "brightness": 0.2,
            "contrast": 0.2,
            "speed": 0.1,
        },
    }
    config = ConfigDict(values)
    config.update(
        {
            "model": {
                "encoder": {
                    "patch_size": 12,
                    "dropout": 0.1,
                    "vit_num_layers": 3,
                    "stem": "patch",
                    "frame_pooling": "mean",
                    "motion": "none",
                },
                "temporal": {"dropout": 0.1, "num_queries": 16, "num_attention_layers": 0},
                "decoder": {"memory": "queries"},
            },
            "training": {
                "encoder_lr": 1e-3,
                "decoder_lr": 1e-3,
                "ctc_flat_start_steps": 0,
                "batch_size": 16,
                "num_epochs": 8,
                "eval_every_n_epochs": 4,
                "save_every_n_epochs": 2,
                "num_sample_predictions": 3,
                "best_metric": "wer",
            },
        }
    )
    return config
