r"""`dense_vit.py` for a server with several A100s: sharded parameters and moments, larger batches.

    python -m signvit_jax.train --config=dense_vit_server --workdir=runs/dense_vit \
        --config.data.name=isign --config.data.data_dir=data

Eight devices, as data x fsdp = 1 x 8; for another number set --config.mesh.fsdp.

Hardware, as planned by scripts/make_hardware.py: 10.8 GiB on each of 8 40 GB A100; 11.0 GiB on each
of 8 v5e with --config.training.gradient_accumulation=4.

Not trained to the end yet.
"""

from ml_collections import ConfigDict

from signvit_jax.presets import dense_vit


def get_config() -> ConfigDict:
    config = dense_vit.get_config()
    config.update(
        {
            "training": {
                "batch_size": 64,
                "gradient_accumulation": 2,
                "encoder_lr": 1e-4,
                "decoder_lr": 3e-4,
                "save_every_n_minutes": 20.0,
            },
            "data": {"num_workers": 8, "prefetch_batches": 8},
            "mesh": {"data": -1, "fsdp": 8, "tensor": 1},
        }
    )
    return config
