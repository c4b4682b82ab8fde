r"""Memorization of a few dozen real clips, to check your data and the model before a large run.

    python -m tfds_builders.build video_folder --data_dir=data --csv=clips.csv --videos=clips \
        --val_fraction=0 --test_fraction=0
    python -m signvit_jax.train --config=overfit_small --workdir=runs/overfit \
        --config.data.data_dir=data
    python -m signvit_jax.eval --workdir=runs/overfit --split=train

Expect an exact match near 1.0 on the training clips. The model cannot translate other clips.
Hardware: two CPU cores, about five minutes for 90 clips of 2-5 s.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                "encoder": {
                    "output_dim": 96,
                    "vit_hidden_dim": 96,
                    "vit_num_heads": 2,
                    "vit_num_layers": 1,
                    "vit_mlp_dim": 192,
                    "patch_size": 16,
                    "dropout": 0.0,
                    "attention_dropout": 0.0,
                    "position_init": "sincos2d",
                    "stem": "conv",
                    "frame_pooling": "concat",
                    "motion": "clip_mean",
                },
                "temporal": {
                    "num_queries": 8,
                    "num_heads": 4,
                    "num_temporal_conv": 2,
                    "dropout": 0.0,
                    "time_positions": "sincos",
                    "num_attention_layers": 1,
                },
                "decoder": {
                    "hidden_dim": 96,
                    "num_layers": 2,
                    "num_heads": 4,
                    "ff_dim": 192,
                    "dropout": 0.0,
                    "max_len": 64,
                    "final_norm": True,
                    "memory": "frames",
                },
                "ctc": {"source": "frames", "dropout": 0.0},
            },
            "training": {
                "batch_size": 8,
                "num_epochs": 80,
                "encoder_lr": 1.5e-3,
                "decoder_lr": 1.5e-3,
                "ctc_flat_start_steps": 300,
                "ctc_flat_start_ratio": 0.2,
                "weight_decay": 0.01,
                "weight_decay_on": "matrices",
                "max_grad_norm": 1.0,
                "patience": 0,
                "use_amp": False,
                "scan_layers": False,
                "eval_every_n_epochs": 40,
                "save_every_n_epochs": 20,
            },
            "data": {
                "name": "video_folder",
                "image_size": 64,
                "resize_mode": "pad",
                "sampling": "rate",
                "frame_rate": 5.0,
                "num_frames": 32,
                "frame_buckets": (16, 32),
            },
            "tokenizer": {"name": "bpe", "vocab_size": 4000, "lowercase": False},
        }
    )
