"""What an exported model can be asked: pure functions of a model and arrays, the same for StableHLO and ONNX.

A clip goes through `backbone` and `temporal_<frames>`; then either through `label` (the CTC head), or through `start` once and `step` for each token.
Greedy search needs no more than that; in a beam `lineage` says which hypothesis each position was cached by (see `TextDecoder.step`).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.export import SymbolicScope, symbolic_shape
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, UInt8

from signvit_jax.config.schema import Config
from signvit_jax.layers.attention import length_mask
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.decoder import Cache, Memory
from signvit_jax.models.translator import SignTranslator

Shape = tuple[int | str, ...]

# How exports compute: in float32, with all layers written out and attention as plain products.
EXPORT_POLICY = ComputePolicy(scan_layers=False, attention="xla")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function `run(model, *inputs)` with the names, shapes and dtypes of its inputs and the names and shapes of its outputs, which are float32.

    Sizes that are letters may be anything: b clips, t frames, s steps of the memory, m hypotheses of a clip; v, of outputs alone, is the vocabulary.
    """

    name: str
    run: Callable[..., tuple[Array, ...]]
    inputs: dict[str, tuple[Shape, object]]
    outputs: dict[str, Shape]

    def abstract_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Inputs whose open sizes are symbols of one scope."""
        scope = SymbolicScope()
        return tuple(
            jax.ShapeDtypeStruct(
                symbolic_shape(",".join(map(str, shape)), scope=scope) if shape else (), dtype
            )
            for shape, dtype in self.inputs.values()
        )


class Programs(Protocol):
    """Programs by name, however they are run."""

    def __call__(self, name: str, *inputs: ArrayLike) -> tuple[ArrayLike, ...]: ...


class Definition(Protocol):
    """A model without its numbers: a ModelDefinition or a ModifiedDefinition."""

    def bind(self, params: PyTree) -> SignTranslator: ...


def programs(config: Config) -> list[Program]:
    """All programs of a model. Only what follows the backbone has a length of its own for each of `data.frame_buckets`."""
    return [
        _backbone(config),
        *(_temporal(config, frames) for frames in config.frame_buckets),
        _label(config),
        _start(config),
        _step(config),
    ]


def encode(
    run: Programs, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]
) -> tuple[Array, Array]:
    """Pooled tokens (b, q, d) and frames (b, t, d) of clips; `run(name, *inputs)` runs a program."""
    (features,) = run("backbone", video, frame_lengths)
    return run(f"temporal_{video.shape[1]}", features, frame_lengths)


class ModelPrograms:
    """The programs of a model by name, compiled by XLA when they are first run."""

    def __init__(self, definition: Definition, params: PyTree, config: Config):
        def compiled(program: Program) -> Callable[..., tuple[Array, ...]]:
            return jax.jit(lambda params, *inputs: program.run(definition.bind(params), *inputs))

        self._params, self._run = (
            params,
            {program.name: compiled(program) for program in programs(config)},
        )

    def __call__(self, name: str, *inputs: ArrayLike) -> tuple[Array, ...]:
        return self._run[name](self._params, *inputs)


def _backbone(config: Config) -> Program:
    size = config.data.image_size

    def run(
        model: SignTranslator, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Float[Array, "b t f"]]:
        features, _ = model.encoder.frame_features(video, frame_lengths)
        return (features,)

    inputs = {"video": (("b", "t", size, size, 3), jnp.uint8), "frame_lengths": (("b",), jnp.int32)}
    return Program(
        "backbone", run, inputs, {"features": ("b", "t", config.model.encoder.output_dim)}
    )


def _temporal(config: Config, frames: int) -> Program:
    def run(
        model: SignTranslator, features: Float[Array, "b t f"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b t d"]]:
        return model.encoder.pool(features, frame_lengths)

    inputs = {
        "features": (("b", frames, config.model.encoder.output_dim), jnp.float32),
        "frame_lengths": (("b",), jnp.int32),
    }
    width = config.model.decoder.hidden_dim
    return Program(
        f"temporal_{frames}",
        run,
        inputs,
        {"pooled": ("b", config.model.temporal.num_queries, width), "frames": ("b", frames, width)},
    )


def _label(config: Config) -> Program:
    def run(model: SignTranslator, heard: Float[Array, "b s d"]) -> tuple[Float[Array, "b s v"]]:
        return (model.ctc_head(heard, model.decoder.embedding[...]),)

    inputs = {config.model.ctc.source: (("b", "s", config.model.decoder.hidden_dim), jnp.float32)}
    return Program("label", run, inputs, {"ctc_logits": ("b", "s", "v")})


def _start(config: Config) -> Program:
    layers, width = config.model.decoder.num_layers, config.model.decoder.hidden_dim

    def run(model: SignTranslator, memory: Float[Array, "b s d"]) -> tuple[Array, ...]:
        found, _ = model.decoder.start(memory, None, 1, 1)
        return (*found.keys, *found.values)

    heads = config.model.decoder.num_heads
    outputs = {
        f"memory_{kind}_{layer}": ("b", "s", heads, width // heads)
        for kind in ("key", "value")
        for layer in range(layers)
    }
    return Program("start", run, {"memory": (("b", "s", width), jnp.float32)}, outputs)


def _step(config: Config) -> Program:
    decoder, reads_frames = config.model.decoder, config.model.decoder.memory == "frames"
    layers, heads, length = decoder.num_layers, decoder.num_heads, decoder.max_len
    head = decoder.hidden_dim // heads

    def run(
        model: SignTranslator, tokens: Array, position: Array, lineage: Array, *rest: Array
    ) -> tuple[Array, ...]:
        frame_lengths, rest = (rest[0], rest[1:]) if reads_frames else (None, rest)
        keys, values, memory_keys, memory_values = (
            rest[part * layers : (part + 1) * layers] for part in range(4)
        )
        mask = (
            None if frame_lengths is None else length_mask(frame_lengths, memory_keys[0].shape[1])
        )
        logits, grown = model.decoder.step(
            tokens, position, Cache(keys, values), Memory(memory_keys, memory_values, mask), lineage
        )
        return (logits, *grown.keys, *grown.values)

    inputs = {
        "tokens": (("b", "m"), jnp.int32),
        "position": ((), jnp.int32),
        "lineage": (("b", "m", length), jnp.int32),
    }
    if reads_frames:
        inputs["frame_lengths"] = (("b",), jnp.int32)
    inputs |= {
        f"{kind}_{layer}": (("b", "m", length, heads, head), jnp.float32)
        for kind in ("key", "value")
        for layer in range(layers)
    }
    inputs |= {
        f"memory_{kind}_{layer}": (("b", "s", heads, head), jnp.float32)
        for kind in ("key", "value")
        for layer in range(layers)
    }
    outputs = {"logits": ("b", "m", "v")}
    outputs |= {
        f"new_{kind}_{layer}": ("b", "m", length, heads, head)
        for kind in ("key", "value")
        for layer in range(layers)
    }
    return Program("step", run, inputs, outputs)
