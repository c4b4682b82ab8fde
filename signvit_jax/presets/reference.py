r"""The model sizes, losses, schedule and 16 frames per clip of the reference system in PyTorch.

Use this preset to compare with that system; for new models we recommend `dense_vit.py`.

    python -m signvit_jax.train --config=reference --workdir=runs/reference \
        --config.data.name=isign --config.data.data_dir=data

With a BERT vocabulary file:

    python -m signvit_jax.train --config=reference:bert/vocab.txt \
        --workdir=runs/reference_bert ...

Model: ViT-L/16 on every frame (303,301,632 parameters); the whole model has 354,323,258 parameters
with a vocabulary of 30,522 words.

The authors of the reference state 40-50 GB for this batch size.

Hardware, as planned by scripts/make_hardware.py: 29.4 GiB on one 40 GB A100; 8.3 GiB on each of 4
v5e with --config.mesh.fsdp=4.
"""

from ml_collections import ConfigDict

from signvit_jax.config.vit_sizes import vit


def get_config(vocab_file: str = "") -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                "encoder": vit("L/16")
                | {
                    "dropout": 0.2,
                    "attention_dropout": 0.2,
                    "position_init": "normal",
                },
                "temporal": {
                    "num_queries": 32,
                    "num_heads": 16,
                    "num_temporal_conv": 4,
                    "kernel_size": 3,
                    "dropout": 0.2,
                },
                "decoder": {
                    "hidden_dim": 512,
                    "num_layers": 4,
                    "num_heads": 8,
                    "ff_dim": 1024,
                    "dropout": 0.1,
                    "max_len": 100,
                },
                "ctc": {"source": "queries", "dropout": 0.1},
            },
            "training": {
                "batch_size": 16,
                "num_epochs": 200,
                "encoder_lr": 5e-5,
                "decoder_lr": 1.5e-4,
                "weight_decay": 0.001,
                "warmup_ratio": 0.05,
                "ctc_weight": 0.3,
                "ce_weight": 0.7,
                "label_smoothing": 0.05,
                "max_grad_norm": 0.5,
                "patience": 30,
                "remat": "dots",
            },
            # The reference augments each frame independently: it rotates, shifts and recolors the
            # frame, and mirrors every second one. Here all frames of a clip get the same
            # augmentation, and no clip is mirrored.
            "data": {
                "num_frames": 16,
                "image_size": 224,
                "sampling": "even",
                "resize_mode": "squash",
                "augment": {
                    "rotate": 5.0,
                    "brightness": 0.2,
                    "contrast": 0.2,
                    "saturation": 0.2,
                    "hue": 0.05,
                },
            },
            "tokenizer": (
                {"name": "bert", "vocab_file": vocab_file}
                if vocab_file
                else {"name": "bpe", "vocab_size": 30_522}
            ),
            "inference": {"beam_size": 4, "length_penalty": 1.0, "temperature": 1.0},
        }
    )
