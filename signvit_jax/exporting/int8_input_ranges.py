"""Input ranges of the encoder's linear layers on training clips, for INT8 inputs."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from signvit_jax.config.schema import AugmentConfig
from signvit_jax.data.dataset import Split
from signvit_jax.data.pipeline import make_batches
from signvit_jax.inference.predictor import Clips
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.serving.linear_layers import replace_linears
from signvit_jax.serving.param_paths import flat
from signvit_jax.serving.programs import EXPORT_POLICY

_BATCH_SIZE = 4


class _RecordRange(nnx.Module):
    """A linear layer that gives the lowest and highest value of each input to `record`."""

    def __init__(self, linear: nnx.Linear, record: Callable[[Array], None]):
        self.linear = linear
        self.record = record

    def __call__(self, x: Float[Array, "*shape i"]) -> Float[Array, "*shape o"]:
        self.record(jnp.stack([x.min(), x.max()]).astype(jnp.float32))
        return self.linear(x)


def input_ranges(
    model: TrainedModel, batches: Iterable[Clips]
) -> dict[str, Float[np.ndarray, "*layers 2"]]:
    """Return the lowest and highest input of each linear layer of the encoder, by path.

    They are means over the batches, so that one unusual clip changes them little.
    """
    definition = model.define(EXPORT_POLICY)

    @jax.jit
    def run(params: PyTree, video: Array, frame_lengths: Array) -> dict[str, Array]:
        translator = definition.bind(params)
        recorded: dict[str, list[Array]] = {}

        def recording(path: str, linear: nnx.Linear) -> _RecordRange:
            return _RecordRange(linear, recorded.setdefault(path, []).append)

        replace_linears(translator, recording)
        translator.encode(video, frame_lengths)
        return {path: jnp.stack(values) for path, values in recorded.items() if values}

    ranges_of_batches = [
        jax.device_get(run(model.params, batch["video"], batch["frame_lengths"]))
        for batch in batches
    ]
    means = {
        path: np.mean([ranges[path] for ranges in ranges_of_batches], axis=0)
        for path in ranges_of_batches[0]
    }
    params = flat(model.params)

    def is_stacked(path: str) -> bool:
        return params[f"{path}/kernel"].ndim == 3  # layers, inputs, outputs

    return {path: ranges if is_stacked(path) else ranges[0] for path, ranges in means.items()}


def calibration_batches(split: Split, model: TrainedModel, clips: int) -> Iterable[Clips]:
    """Yield about `clips` clips of the split, drawn evenly and not augmented, in small batches."""
    data = dataclasses.replace(model.config.data, augment=AugmentConfig(), sortagrad_epochs=0)
    config = dataclasses.replace(model.config, data=data)
    batches = make_batches(
        split,
        model.tokenizer,
        config,
        batch_size=_BATCH_SIZE,
        training=True,
        text_length=config.model.decoder.max_len,
    )
    for number, batch in enumerate(batches):
        if _BATCH_SIZE * number >= clips:
            return
        yield batch
