r"""`dense_vit.py` for a server with several A100s: sharded parameters and moments, larger batches.

    python -m signvit_jax.train --config=configs/dense_vit_server.py --workdir=runs/dense_vit \
        --config.data.name=isign --config.data.data_dir=data

Hardware: 8 x A100 (40 or 80 GB), as data x fsdp = 1 x 8; for another number of devices set
--config.mesh.fsdp. Not trained to the end yet.
"""

from ml_collections import ConfigDict

from configs import dense_vit


def get_config() -> ConfigDict:
    config = dense_vit.get_config()
    config.training.batch_size = 64
    config.training.gradient_accumulation = 2
    config.training.encoder_lr = 1e-4
    config.training.decoder_lr = 3e-4
    config.training.save_every_n_minutes = 20.0
    config.data.num_workers = 8
    config.data.prefetch_batches = 8
    config.mesh = {"data": -1, "fsdp": 8, "tensor": 1}
    return config
