r"""Learn from scratch to translate new sentences by new signers, in half an hour on one CPU core.

    python -m tfds_builders.build synthetic_signs --data_dir=data --num_train=6000 \
        --num_validation=200 --num_test=300
    python -m signvit_jax.train --config=small --workdir=runs/small \
        --config.data.data_dir=data
    python -m signvit_jax.eval --workdir=runs/small --split=test

What each option contributes: docs/learning.md. For another data set of a few thousand clips:
--config.data.name=video_folder. Glosses are used if the data set has them: CTC spells them, and the
decoder also learns to translate them.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                "encoder": {
                    "output_dim": 128,
                    "vit_hidden_dim": 128,
                    "vit_num_heads": 4,
                    "vit_num_layers": 1,
                    "vit_mlp_dim": 256,
                    "patch_size": 16,
                    "dropout": 0.0,
                    "attention_dropout": 0.0,
                    "position_init": "sincos2d",
                    "stem": "conv",
                    "frame_pooling": "concat",
                    "zoom": "motion",
                    "motion": "clip_mean",
                },
                "temporal": {
                    "num_queries": 8,
                    "num_heads": 4,
                    "num_temporal_conv": 3,
                    "kernel_size": 5,
                    "dropout": 0.1,
                    "time_positions": "sincos",
                    "num_attention_layers": 1,
                },
                "decoder": {
                    "hidden_dim": 128,
                    "num_layers": 2,
                    "num_heads": 4,
                    "ff_dim": 256,
                    "dropout": 0.1,
                    "max_len": 64,
                    "final_norm": True,
                    "memory": "frames",
                    "gloss_memory": True,
                },
                "ctc": {"source": "frames", "target": "auto", "dropout": 0.1},
            },
            "training": {
                "batch_size": 16,
                "num_epochs": 4,
                "min_steps": 1500,
                "encoder_lr": 1.5e-3,
                "decoder_lr": 1.5e-3,
                "weight_decay": 0.02,
                "weight_decay_on": "matrices",
                "max_grad_norm": 1.0,
                "warmup_ratio": 0.1,
                "ctc_flat_start_steps": 1500,
                "ctc_flat_start_ratio": 0.2,
                "ctc_weight": 0.5,
                "ce_weight": 0.5,
                "gloss_sentences": 4,
                "label_smoothing": 0.1,
                "patience": 0,
                "use_amp": False,
                "scan_layers": False,
                "best_metric": "wer",
                "ema_decay": 0.999,
            },
            "data": {
                "name": "synthetic_signs",
                "image_size": 64,
                "resize_mode": "pad",
                "sampling": "rate",
                "frame_rate": 8.33,
                "num_frames": 48,
                "frame_buckets": (32, 48),
                "augment": {
                    "rotate": 5.0,
                    "translate": 0.06,
                    "scale": 0.1,
                    "brightness": 0.2,
                    "contrast": 0.2,
                    "saturation": 0.2,
                    "hue": 0.03,
                    "speed": 0.15,
                },
            },
            "inference": {"lexicon_weight": 1.0},
            "tokenizer": {"name": "bpe", "vocab_size": 2000},
        }
    )
