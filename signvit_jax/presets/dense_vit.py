r"""The recommended full-size model: ViT-L/16 on every frame, clips of any length, CTC over frames.

    python -m signvit_jax.train --config=dense_vit --workdir=runs/dense_vit \
        --config.data.name=isign --config.data.data_dir=data

Model: the backbone of `reference.py` (303,301,632 parameters) with positions in space and time; the
vocabulary is learned from the training text.

Hardware, as planned by scripts/make_hardware.py: 40.7 GiB on one 80 GB H100; 25.6 GiB on one 40 GB
A100 with --config.training.gradient_accumulation=2; 10.5 GiB on each of 8 v5e with
--config.mesh.fsdp=8.

Not trained to the end yet.
"""

from ml_collections import ConfigDict

from signvit_jax.config.vit_sizes import vit


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                "encoder": vit("L/16")
                | {
                    "dropout": 0.1,
                    "attention_dropout": 0.0,
                    "dropout_rng_impl": "hash",
                    "position_init": "sincos2d",
                    "drop_path": 0.1,
                },
                "temporal": {
                    "num_queries": 32,
                    "num_heads": 16,
                    "num_temporal_conv": 4,
                    "dropout": 0.2,
                    "time_positions": "sincos",
                },
                "decoder": {
                    "hidden_dim": 512,
                    "num_layers": 4,
                    "num_heads": 8,
                    "ff_dim": 1024,
                    "dropout": 0.1,
                    "max_len": 100,
                    "final_norm": True,
                },
                "ctc": {"source": "frames", "target": "auto"},
            },
            "training": {
                "batch_size": 16,
                "num_epochs": 200,
                "encoder_lr": 5e-5,
                "decoder_lr": 1.5e-4,
                "weight_decay": 0.01,
                "weight_decay_on": "matrices",
                "max_grad_norm": 1.0,
                "ema_decay": 0.999,
                "ctc_flat_start_steps": 5000,
                "ctc_flat_start_ratio": 0.2,
                "remat": "full",
                "best_metric": "chrf",
            },
            "data": {
                "num_frames": 128,
                "frame_buckets": (32, 64, 96, 128),
                "sampling": "rate",
                "frame_rate": 12.5,
                "image_size": 224,
                "resize_mode": "pad",
                "augment": {
                    "rotate": 5.0,
                    "translate": 0.05,
                    "scale": 0.1,
                    "brightness": 0.3,
                    "contrast": 0.3,
                    "saturation": 0.3,
                    "hue": 0.05,
                    "speed": 0.2,
                    "frame_jitter": 0.5,
                },
            },
            "tokenizer": {
                "name": "bpe",
                "vocab_size": 8000,
                "min_frequency": 2,
                "lowercase": False,
            },
            "inference": {"beam_size": 4, "length_penalty": 1.0},
        }
    )
