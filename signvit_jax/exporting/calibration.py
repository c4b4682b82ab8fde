"""What goes into each linear layer of the encoder on training clips, so that its input can be spread over 256 levels."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from signvit_jax.config.schema import AugmentConfig
from signvit_jax.data.dataset import Split
from signvit_jax.data.pipeline import make_batches
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.serving.linear_layers import replace_linears
from signvit_jax.serving.programs import EXPORT_POLICY


class _Watched(nnx.Module):
    def __init__(self, linear: nnx.Linear, note: Callable[[Array], None]):
        self.linear, self.note = linear, note

    def __call__(self, x: Float[Array, "*shape i"]) -> Float[Array, "*shape o"]:
        self.note(jnp.stack([x.min(), x.max()]).astype(jnp.float32))
        return self.linear(x)


def input_ranges(
    model: TrainedModel, batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, Float[np.ndarray, "*layers 2"]]:
    """Lowest and highest input of each of the encoder's linear layers, by path: the mean of what each batch has, which one odd clip moves little."""
    definition = ModelDefinition(
        model.config,
        model.tokenizer.vocab_size,
        model.gloss_tokenizer.vocab_size if model.gloss_tokenizer else 0,
        EXPORT_POLICY,
    )

    @jax.jit
    def run(params, video: Array, frame_lengths: Array) -> dict[str, Array]:
        translator, seen = definition.bind(params), {}
        replace_linears(
            translator, lambda path, linear: _Watched(linear, seen.setdefault(path, []).append)
        )
        translator.encode(video, frame_lengths)
        return {path: jnp.stack(values) for path, values in seen.items() if values}

    found = [
        jax.device_get(run(model.params, batch["video"], batch["frame_lengths"]))
        for batch in batches
    ]
    layers = model.config.model.encoder.vit_num_layers
    means = {path: np.mean([ranges[path] for ranges in found], axis=0) for path in found[0]}
    return {
        path: ranges
        if path.startswith("encoder/backbone/blocks/") and len(ranges) == layers
        else ranges[0]
        for path, ranges in means.items()
    }


def calibration_batches(
    split: Split, model: TrainedModel, clips: int
) -> Iterable[Mapping[str, np.ndarray]]:
    """About `clips` clips of the split, drawn evenly and not augmented, four at a time."""
    config = dataclasses.replace(
        model.config,
        data=dataclasses.replace(model.config.data, augment=AugmentConfig(), short_first_epochs=0),
    )
    batches = make_batches(
        split,
        model.tokenizer,
        config,
        batch_size=4,
        training=True,
        text_length=config.model.decoder.max_len,
    )
    for number, batch in enumerate(batches):
        if 4 * number >= clips:
            return
        yield batch
