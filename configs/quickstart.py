r"""A few minutes on two CPU cores: from drawn signs to text, with all parts of a real run.

`scripts/quickstart.sh` runs it:

    python -m tfds_builders.build synthetic_signs --data_dir=data --num_train=600 \
        --num_validation=48 --num_test=48
    python -m signvit_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

Expect: the loss falls and sentences take shape; far too short to translate new signers correctly.
"""

from ml_collections import ConfigDict

from configs import overfit_small


def get_config() -> ConfigDict:
    config = overfit_small.get_config()
    config.model.encoder.update(
        patch_size=12,
        dropout=0.1,
        vit_num_layers=3,
        stem="patch",
        frame_pooling="mean",
        motion="none",
    )
    config.model.temporal.update(dropout=0.1, num_queries=16, num_attention_layers=0)
    config.model.decoder.memory = "queries"
    config.training.update(encoder_lr=1e-3, decoder_lr=1e-3, ctc_flat_start_steps=0)
    config.training.update(
        batch_size=16,
        num_epochs=8,
        eval_every_n_epochs=4,
        save_every_n_epochs=2,
        num_sample_predictions=3,
        best_metric="wer",
    )
    config.data = {
        "name": "synthetic_signs",
        "image_size": 48,
        "fit": "squash",
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
    return config
