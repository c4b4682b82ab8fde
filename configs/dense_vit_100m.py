"""`dense_vit.py` at the size that the reference system claimed: about 100M parameters in all, under 400 MB in float32.

    python -m signvit_jax.train --config=configs/dense_vit_100m.py --workdir=runs/dense_vit_100m --config.data.name=isign --config.data.data_dir=data

Model: ViT-B/16 (85.8M) and a decoder 240 wide; 98.0M parameters with 16,000 words.
Hardware: one 24 GB GPU. Not trained to the end yet.
"""

from ml_collections import ConfigDict

from configs import dense_vit
from signvit_jax.config.vit_sizes import vit


def get_config() -> ConfigDict:
    config = dense_vit.get_config()
    config.model.encoder.update(vit("B/16"))
    config.model.temporal.num_heads = 8
    config.model.decoder.update(hidden_dim=240, ff_dim=480)
    config.training.update(encoder_lr=1e-4, decoder_lr=3e-4)
    config.tokenizer.vocab_size = 16_000
    return config
