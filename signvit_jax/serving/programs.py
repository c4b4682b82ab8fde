"""The programs of an export: pure functions of a model and arrays, the same in StableHLO and ONNX.

A clip goes through `backbone` and `temporal_<frames>`, and then either through `label` (the CTC
head) or through `start` once and `step` for each token. Greedy search needs no more than that. A
model whose decoder also reads glosses has `gloss_memory` for those that `label` spells, with
`start` and `step` for this memory too. In beam search `lineage` gives the hypothesis that wrote
each position of the cache (see `TextDecoder.step`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import SymbolicScope, symbolic_shape
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, PyTree, UInt8

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
    """A function `run(model, *inputs)` with the names and shapes of its inputs and outputs.

    Letters in shapes are open sizes: b clips, t frames, s positions of the memory, m hypotheses of
    a clip; v, in outputs only, is the size of the vocabulary.
    """

    name: str
    run: Callable[..., tuple[Array, ...]]
    inputs: Mapping[str, tuple[Shape, DTypeLike]]
    outputs: Mapping[str, Shape]  # all float32

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
    """The programs of an export, run by name."""

    def __call__(self, name: str, *inputs: ArrayLike) -> tuple[ArrayLike, ...]: ...


class Definition(Protocol):
    """A model without parameters: a ModelDefinition or a ModifiedDefinition."""

    def bind(self, params: PyTree) -> SignTranslator: ...


def programs(config: Config) -> list[Program]:
    """Return all programs of a model, `temporal_<frames>` once for each of `data.frame_buckets`."""
    found = [
        _backbone(config),
        *(_temporal(config, frames) for frames in config.frame_buckets),
        _label(config),
        _start(config),
        _step(config),
    ]
    return [*found, _gloss_memory(config)] if config.model.decoder.gloss_memory else found


def encode(
    run: Programs,
    video: UInt8[Array, "b t h w 3"] | UInt8[np.ndarray, "b t h w 3"],
    frame_lengths: Int[Array, "b"] | Int[np.ndarray, "b"],
) -> tuple[ArrayLike, ArrayLike]:
    """Encode clips; return pooled tokens (b, q, d) and frames (b, t, d)."""
    (features,) = run("backbone", video, frame_lengths)
    pooled, frames = run(f"temporal_{video.shape[1]}", features, frame_lengths)
    return pooled, frames


def memory_lengths_name(config: Config) -> str | None:
    """Return the name of the input of `step` with the valid lengths of a memory.

    None if the model has no such input: all positions of its one memory are valid.
    """
    if config.model.decoder.gloss_memory:
        return "memory_lengths"
    return "frame_lengths" if config.model.decoder.memory == "frames" else None


def ctc_steps(config: Config) -> int:
    """Return the most steps at which CTC spells a gloss: the input length of `gloss_memory`."""
    if config.model.ctc.source == "frames":
        return config.frame_buckets[-1]
    return config.model.temporal.num_queries


class ModelPrograms:
    """The programs of a model by name, compiled by XLA when they are first run."""

    def __init__(self, definition: Definition, params: PyTree, config: Config):
        def compiled(program: Program) -> Callable[..., tuple[Array, ...]]:
            return jax.jit(lambda params, *inputs: program.run(definition.bind(params), *inputs))

        self._params = params
        self._programs = {program.name: compiled(program) for program in programs(config)}

    def __call__(self, name: str, *inputs: ArrayLike) -> tuple[Array, ...]:
        return self._programs[name](self._params, *inputs)


def _backbone(config: Config) -> Program:
    size = config.data.image_size

    def run(
        model: SignTranslator, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Float[Array, "b t f"]]:
        return (model.encoder.frame_features(video, frame_lengths).features,)

    return Program(
        "backbone",
        run,
        {"video": (("b", "t", size, size, 3), jnp.uint8), "frame_lengths": (("b",), jnp.int32)},
        {"features": ("b", "t", config.model.encoder.output_dim)},
    )


def _temporal(config: Config, frames: int) -> Program:
    def run(
        model: SignTranslator, features: Float[Array, "b t f"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b t d"]]:
        return model.encoder.pool(features, frame_lengths)

    width = config.model.decoder.hidden_dim
    return Program(
        f"temporal_{frames}",
        run,
        {
            "features": (("b", frames, config.model.encoder.output_dim), jnp.float32),
            "frame_lengths": (("b",), jnp.int32),
        },
        {"pooled": ("b", config.model.temporal.num_queries, width), "frames": ("b", frames, width)},
    )


def _label(config: Config) -> Program:
    def run(model: SignTranslator, encoded: Float[Array, "b s d"]) -> tuple[Float[Array, "b s v"]]:
        return (model.ctc_head(encoded, model.decoder.embedding[...]),)

    inputs = {config.model.ctc.source: (("b", "s", config.model.decoder.hidden_dim), jnp.float32)}
    return Program("label", run, inputs, {"ctc_logits": ("b", "s", "v")})


def _gloss_memory(config: Config) -> Program:
    def run(
        model: SignTranslator, glosses: Int[Array, "b g"], gloss_lengths: Int[Array, "b"]
    ) -> tuple[Float[Array, "b s d"]]:
        assert model.gloss_encoder is not None, "a model without a gloss memory has no such program"
        return (model.gloss_encoder(glosses, gloss_lengths)[0],)

    steps = ctc_steps(config)
    inputs = {"glosses": (("b", steps), jnp.int32), "gloss_lengths": (("b",), jnp.int32)}
    width = config.model.decoder.hidden_dim
    return Program("gloss_memory", run, inputs, {"memory": ("b", steps + 1, width)})


def _start(config: Config) -> Program:
    decoder = config.model.decoder
    width, heads = decoder.hidden_dim, decoder.num_heads

    def run(model: SignTranslator, memory: Float[Array, "b s d"]) -> tuple[Array, ...]:
        found, _ = model.decoder.start(memory, None, 1, 1)
        return (*found.keys, *found.values)

    outputs = _per_layer("memory", decoder.num_layers, ("b", "s", heads, width // heads))
    return Program("start", run, {"memory": (("b", "s", width), jnp.float32)}, outputs)


def _step(config: Config) -> Program:
    decoder, lengths_name = config.model.decoder, memory_lengths_name(config)
    layers, heads, length = decoder.num_layers, decoder.num_heads, decoder.max_len
    head_width = decoder.hidden_dim // heads
    cache_shape = ("b", "m", length, heads, head_width)
    memory_shape = ("b", "s", heads, head_width)

    def run(
        model: SignTranslator, tokens: Array, position: Array, lineage: Array, *rest: Array
    ) -> tuple[Array, ...]:
        lengths, rest = (rest[0], rest[1:]) if lengths_name else (None, rest)
        keys, values, memory_keys, memory_values = (
            rest[part * layers : (part + 1) * layers] for part in range(4)
        )
        mask = None
        if lengths is not None:
            mask = length_mask(lengths, memory_keys[0].shape[1])
        logits, cache = model.decoder.step(
            tokens, position, Cache(keys, values), Memory(memory_keys, memory_values, mask), lineage
        )
        return (logits, *cache.keys, *cache.values)

    inputs: dict[str, tuple[Shape, DTypeLike]] = {
        "tokens": (("b", "m"), jnp.int32),
        "position": ((), jnp.int32),
        "lineage": (("b", "m", length), jnp.int32),
    }
    if lengths_name:
        inputs[lengths_name] = (("b",), jnp.int32)
    for name, shape in (
        _per_layer("", layers, cache_shape) | _per_layer("memory", layers, memory_shape)
    ).items():
        inputs[name] = (shape, jnp.float32)
    outputs = {"logits": ("b", "m", "v")} | _per_layer("new", layers, cache_shape)
    return Program("step", run, inputs, outputs)


def _per_layer(prefix: str, layers: int, shape: Shape) -> dict[str, Shape]:
    """Names and shapes of the keys of all layers, then of the values of all layers."""
    start = f"{prefix}_" if prefix else ""
    return {f"{start}{kind}_{layer}": shape for kind in ("key", "value") for layer in range(layers)}
