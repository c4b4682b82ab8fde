"""The smallest model that has every part, and a batch for it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from signvit_jax.config.schema import Config, from_mapping
from signvit_jax.models.translator import SignTranslator

VOCABULARY = 17
GLOSSES = 11  # of a model that reads glosses, the blank included
SIZES_WITH_GLOSSES = (VOCABULARY, GLOSSES)  # as `ModelDefinition` takes them
READS_GLOSSES = {"model__ctc__target": "gloss", "model__decoder__gloss_memory": True}
MOBILENET = {
    "model__encoder__backbone": "mobilenet_v3_large",
    "model__encoder__mobilenet_width": 0.1,
    "model__encoder__output_dim": 96,
}


def config(**changes) -> Config:
    """Return the tiny config with changes; a key such as `model__ctc__source` is model.ctc.source.

    The config has dropout rates, but dropout is applied only if a call gets a random key.
    """
    values = {
        "model": {
            "encoder": {
                "output_dim": 16,
                "vit_hidden_dim": 16,
                "vit_num_heads": 2,
                "vit_num_layers": 2,
                "vit_mlp_dim": 24,
                "patch_size": 8,
            },
            "temporal": {"num_queries": 3, "num_heads": 2, "num_temporal_conv": 1},
            "decoder": {
                "hidden_dim": 16,
                "num_layers": 1,
                "num_heads": 2,
                "ff_dim": 24,
                "max_len": 12,
            },
            "ctc": {"source": "frames"},
        },
        "training": {
            "batch_size": 4,
            "use_amp": False,
            "warmup_ratio": 0.3,
            "encoder_lr": 1e-2,
            "decoder_lr": 3e-2,
        },
        "data": {"image_size": 16, "num_frames": 6},
    }
    for dotted, value in changes.items():
        *groups, name = dotted.split("__")
        node = values
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return from_mapping(values)


def vocabulary_sizes(tiny: Config) -> tuple[int, int]:
    """Return the numbers of tokens and of glosses of a model, as `ModelDefinition` takes them."""
    return SIZES_WITH_GLOSSES if tiny.model.ctc.target == "gloss" else (VOCABULARY, 0)


def model(tiny: Config, seed: int = 0) -> SignTranslator:
    """Return a model with random parameters."""
    # Not jitted: jit would compile a program for every config; single operations are compiled once
    # for all models.
    rngs = nnx.Rngs(params=jax.random.key(seed))
    return SignTranslator.from_config(tiny, *vocabulary_sizes(tiny), rngs=rngs)


def batch(clips: int = 4, frames: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Return a batch whose clips have different lengths; texts are short enough for CTC."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((clips, 6), np.int32)
    lengths = rng.integers(3, 5, clips).astype(np.int32)  # one or two words between BOS and EOS
    for row, length in enumerate(lengths):
        tokens[row, :length] = [
            1,
            *rng.choice(np.arange(4, VOCABULARY), length - 2, replace=False),
            2,
        ]
    return {
        "video": rng.integers(0, 256, (clips, frames, 16, 16, 3), dtype=np.uint8),
        "frame_lengths": rng.integers(frames - 2, frames + 1, clips).astype(np.int32),
        "tokens": tokens,
        "token_lengths": lengths,
        "weights": np.ones(clips, np.float32),
    }


def with_glosses(given: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Return the batch with one to three glosses of each clip."""
    rng = np.random.default_rng(seed)
    clips = len(given["tokens"])
    lengths = rng.integers(1, 4, clips).astype(np.int32)
    glosses = rng.integers(1, GLOSSES, (clips, 3)).astype(np.int32)
    glosses[np.arange(3) >= lengths[:, None]] = 0
    return given | {"gloss_tokens": glosses, "gloss_lengths": lengths}


@jax.jit
def outputs(translator: SignTranslator, inputs: dict, key=None) -> tuple:
    """Return (pooled tokens, decoder logits, CTC logits)."""
    encoded = translator.encode(jnp.asarray(inputs["video"]), inputs["frame_lengths"], key)
    return (
        encoded.pooled,
        translator.logits(encoded, inputs["tokens"][:, :-1], key),
        translator.ctc_logits(encoded, key)[0],
    )
