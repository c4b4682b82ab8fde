"""Compare the model with numbers of the PyTorch system that it reimplements (the reference).

    python scripts/check_reference.py --vectors=tests/fixtures/translator_small.npz

The keys of a file tell its kind: a complete translator, a ViT of timm, or a MobileNetV3-Large of
torchvision. Weights are converted to our parameters and back. The largest difference of each group
is printed beside its tolerance.

Models may have any size. Sizes are read from the shapes of the tensors; sizes that these do not
show, such as the number of heads, are read from the file's key `config`.

Exit codes: 0 all groups agree, 1 one differs by more than its tolerance, 2 the file cannot be read,
lacks a key, or is of an unknown kind.
"""

import argparse
import dataclasses
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.markup import escape
from rich.table import Column, Table

from signvit_jax.backbones.mobilenet_v3 import MobileNetV3
from signvit_jax.backbones.vit import DenseViT
from signvit_jax.config.schema import Config, EncoderConfig, TrainingConfig
from signvit_jax.decoding.autoregressive import Source, best
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.ctc import greedy_ctc
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.definition import ModelDefinition, parameters_of
from signvit_jax.models.translator import Encoded, SignTranslator
from signvit_jax.optimization.losses import (
    Batch,
    LossParts,
    loss_denominators,
    translation_loss,
)
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.schedules import group_schedules
from signvit_jax.parallel.sharding import parameter_path
from signvit_jax.runtime.exit_codes import run_command
from signvit_jax.runtime.standard_streams import clean
from signvit_jax.runtime.terminal import print_table
from signvit_jax.weights import mobilenet_v3, timm_vit
from signvit_jax.weights.mapping import fill, flat_parameters
from signvit_jax.weights.reference import from_ours, load_reference

Vectors = Mapping[str, np.ndarray]

# The ten training steps of a reference file: gradient clipping at 0.5, decay 0.001 on all
# parameters, 30 % warm-up, peak rates 1e-3 and 3e-3.
TRAINING = {
    "encoder_lr": 1e-3,
    "decoder_lr": 3e-3,
    "warmup_ratio": 0.3,
    "max_grad_norm": 0.5,
    "weight_decay": 0.001,
}


_ABSOLUTE_TOLERANCE = 1e-4  # of outputs and scores


@dataclasses.dataclass(frozen=True)
class Check:
    """The largest difference of one group of numbers."""

    group: str
    difference: float
    tolerance: float
    measure: str = "absolute"  # or "relative", or for a count: the name of the counted things
    is_count: bool = False

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


def compare_translator(vectors: Vectors) -> Iterator[Check]:
    """Compare a translator: outputs, losses, gradients, training steps and decoded ids."""
    config, model, settings = load_reference(vectors)
    # A fixed table of positions, and a copy of the embedding: our model has neither.
    constants = ("decoder.pos_encoder.pe", "decoder.output_proj.weight")
    yield _round_trip(
        {name: value for name, value in _tensors(vectors).items() if name not in constants},
        from_ours(flat_parameters(model)),
    )
    batch = _batch(vectors, vectors["in/video"])
    vit_tokens, pooled, logits, ctc_logits = _outputs(model, batch)
    yield _absolute("vit tokens", vit_tokens, vectors["out/vit_tokens"])
    yield _absolute("encoder", pooled, vectors["out/encoder"])
    mask = np.asarray(batch["tokens"]) != settings["pad_id"]
    yield _absolute("decoder logits", np.asarray(logits)[mask], vectors["out/logits"][mask])
    yield _absolute("ctc logits", ctc_logits, vectors["out/ctc_logits"])
    yield from _losses_and_gradients(vectors, config, model, settings, batch)
    yield from _training_steps(vectors, config, model, settings, batch)
    yield from _decoded(vectors, model, settings, batch, "decode/", ids_matter=False)
    if "trained_in/video" in vectors:
        yield from _trained(vectors, config, settings)


def compare_vit(vectors: Vectors) -> Iterator[Check]:
    """Compare the output tokens of a ViT whose tensors have timm's names.

    The file's key `config` has what tensors do not show: the number of heads, and LayerNorm's
    epsilon.
    """
    extra = json.loads(str(vectors["config"]))
    tensors = {
        name: value
        for name, value in _tensors(vectors).items()
        if not timm_vit.holds_no_feature(name)
    }
    sizes = timm_vit.sizes_of(tensors)
    config = EncoderConfig(
        output_dim=sizes.width,
        vit_hidden_dim=sizes.width,
        vit_num_heads=extra["num_heads"],
        vit_num_layers=sizes.layers,
        vit_mlp_dim=sizes.hidden,
        patch_size=sizes.patch_size,
        norm_epsilon=extra.get("layer_norm_eps", timm_vit.EPSILON),
    )
    image_size = sizes.side * sizes.patch_size
    model = nnx.eval_shape(
        lambda: DenseViT(
            config, image_size, policy=ComputePolicy(), rngs=nnx.Rngs(params=jax.random.key(0))
        )
    )
    fill(model, timm_vit.to_ours(tensors, _shapes(model)))
    yield _round_trip(tensors, timm_vit.from_ours(flat_parameters(model)))
    yield _absolute(
        "tokens",
        jax.jit(DenseViT.intermediates)(model, _images(vectors))["tokens"],
        vectors["out/tokens"],
    )


def compare_mobilenet(vectors: Vectors) -> Iterator[Check]:
    """Compare the stage outputs in the file, and the pooled features, of a MobileNetV3-Large."""
    tensors = mobilenet_v3.torchvision_names(_tensors(vectors))
    tensors = {
        name: value for name, value in tensors.items() if not mobilenet_v3.holds_no_feature(name)
    }
    sizes = mobilenet_v3.sizes_of(tensors)
    model = nnx.eval_shape(
        lambda: MobileNetV3(sizes, policy=ComputePolicy(), rngs=nnx.Rngs(params=jax.random.key(0)))
    )
    fill(model, mobilenet_v3.to_ours(tensors, _shapes(model)))
    yield _round_trip(tensors, mobilenet_v3.from_ours(flat_parameters(model)))
    outputs, pooled = jax.jit(
        lambda model, images: (model.intermediates(images), model(images).features)
    )(model, _images(vectors))
    parts = ["stem", *(f"blocks/{number}" for number in range(len(sizes.blocks))), "head"]
    prefix = "out/features."
    numbers = [int(name.removeprefix(prefix)) for name in vectors if name.startswith(prefix)]
    for number in sorted(numbers):
        yield _absolute(
            f"features.{number}",
            outputs[parts[number]].transpose(0, 3, 1, 2),
            vectors[f"{prefix}{number}"],
        )
    yield _absolute("pooled", pooled, vectors["out/pooled"])


def comparison(vectors: Vectors) -> Callable[[Vectors], Iterator[Check]]:
    """Return the function that compares files of this kind. Raises ValueError if it is unknown."""
    tensors = _tensors(vectors)
    if "out/ctc_logits" in vectors:
        return compare_translator
    if timm_vit.is_theirs(tensors) and "out/tokens" in vectors:
        return compare_vit
    if mobilenet_v3.is_theirs(tensors) and "out/pooled" in vectors:
        return compare_mobilenet
    raise ValueError(
        "the keys are those of no known kind of file: a translator has out/ctc_logits, a timm ViT "
        "out/tokens, a MobileNetV3 out/pooled"
    )


def _trained(vectors: Vectors, config: Config, settings: Mapping) -> Iterator[Check]:
    """Compare the model after more training. It ends its sentences, so its ids are compared too."""
    _, trained, _ = load_reference(vectors, prefix="trained_params/")
    trained_batch = _batch(vectors, vectors["trained_in/video"])
    _, parts = _gradient(ModelDefinition(config, settings["vocab_size"]), config.training)(
        parameters_of(trained), trained_batch
    )
    # The CTC loss of a memorized sentence is the small difference of log-probabilities that are a
    # thousand times as large. So only about four of its digits are right in float32, both in our
    # system and in the reference.
    yield _relative("trained losses", _losses(parts), vectors["trained_loss"], 1e-5, floor=0.1)
    yield from _decoded(
        vectors, trained, settings, trained_batch, "trained_decode/", ids_matter=True
    )


@jax.jit
def _outputs(model: SignTranslator, batch: Batch) -> tuple[jax.Array, ...]:
    video = jnp.asarray(batch["video"])
    images = video.reshape(-1, *video.shape[2:])
    encoded = model.encode(video, jnp.asarray(batch["frame_lengths"]))
    return (
        model.encoder.backbone.intermediates(images)["tokens"],
        encoded.pooled,
        model.logits(encoded, jnp.asarray(batch["tokens"])),
        model.ctc_logits(encoded)[0],
    )


@jax.jit
def _encode(model: SignTranslator, batch: Batch) -> Encoded:
    return model.encode(jnp.asarray(batch["video"]), jnp.asarray(batch["frame_lengths"]))


def _losses_and_gradients(
    vectors: Vectors, config: Config, model: SignTranslator, settings: Mapping, batch: Batch
) -> Iterator[Check]:
    gradients, parts = _gradient(ModelDefinition(config, settings["vocab_size"]), config.training)(
        parameters_of(model), batch
    )
    yield _relative(
        "losses", _losses(parts), [vectors[f"loss/{name}"] for name in ("total", "ce", "ctc")], 1e-5
    )
    yield _relative(
        "global gradient norm", [optax.tree.norm(gradients)], [vectors["grad/global_norm"]], 1e-3
    )
    theirs = from_ours(
        {
            parameter_path(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        }
    )
    names = [name for name in vectors if name.startswith("grad_norm/")]
    norms = [np.linalg.norm(theirs[name.removeprefix("grad_norm/")]) for name in names]
    yield _relative(f"{len(names)} gradient norms", norms, [vectors[name] for name in names], 1e-3)


def _training_steps(
    vectors: Vectors, config: Config, model: SignTranslator, settings: Mapping, batch: Batch
) -> Iterator[Check]:
    training = dataclasses.replace(config.training, **TRAINING)
    steps = len(vectors["train/losses"])
    optimizer = make_optimizer(training, steps)
    gradient = _gradient(ModelDefinition(config, settings["vocab_size"]), training)
    params = parameters_of(model)
    state = optimizer.init(params)
    losses, norms = [], []
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        gradients, parts = gradient(params, batch)
        losses.append(_losses(parts))
        norms.append(optax.tree.norm(gradients))
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    schedules = group_schedules(training, steps)
    rates = [[schedules[group](step) for group in ("encoder", "rest")] for step in range(steps)]
    yield _relative(f"losses of {steps} training steps", losses, vectors["train/losses"], 1e-5)
    yield _relative(
        f"gradient norms of {steps} training steps", norms, vectors["train/grad_norms"], 1e-3
    )
    yield _relative("learning rates", rates, vectors["train/lrs"], 1e-6)


def _decoded(
    vectors: Vectors,
    model: SignTranslator,
    settings: Mapping,
    batch: Batch,
    prefix: str,
    *,
    ids_matter: bool,
) -> Iterator[Check]:
    """Compare greedy, beam and CTC decoding.

    `ids_matter`: compare the ids of beams too. False for an untrained model: its beams hit the
    length limit, where ids are arbitrary.
    """
    encoded = _encode(model, batch)
    source = Source(model.decoder, *model.memory(encoded))
    ids = {"bos_id": settings["bos_id"], "eos_id": settings["eos_id"]}
    hypotheses = greedy(source, SearchOptions(**ids))
    yield _ids(f"{prefix}greedy", hypotheses.tokens, vectors[f"{prefix}greedy"], settings["pad_id"])
    yield _ids(
        f"{prefix}ctc_greedy",
        greedy_ctc(*model.ctc_logits(encoded)).ids,
        vectors[f"{prefix}ctc_greedy"],
        settings["pad_id"],
    )
    # Keys of beam search: beam4_lp0.6_0 has the ids of clip 0 with beam size 4 and length penalty
    # 0.6; beam4_lp0.6_0_score has their score.
    matches = [re.fullmatch(rf"{prefix}(beam(\d+)_lp([\d.]+))_0", name) for name in vectors]
    for search, size, penalty in sorted({match.group(1, 2, 3) for match in matches if match}):
        options = SearchOptions(beam_size=int(size), length_penalty=float(penalty), **ids)
        hypotheses = best(beam_search(source, options))
        clips = range(len(hypotheses.scores))
        yield _absolute(
            f"{prefix}{search} scores",
            hypotheses.scores,
            [vectors[f"{prefix}{search}_{clip}_score"] for clip in clips],
        )
        if ids_matter:
            expected = [vectors[f"{prefix}{search}_{clip}"] for clip in clips]
            width = max(len(ids_of_clip) for ids_of_clip in expected)
            padded = np.full((len(expected), width), settings["pad_id"], np.int32)
            for row, ids_of_clip in enumerate(expected):
                padded[row, : len(ids_of_clip)] = ids_of_clip
            yield _ids(f"{prefix}{search}", hypotheses.tokens, padded, settings["pad_id"])


def _tensors(vectors: Vectors) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("params/"): value
        for name, value in vectors.items()
        if name.startswith("params/")
    }


def _shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    return {path: value.shape for path, value in flat_parameters(model).items()}


def _images(vectors: Vectors) -> jax.Array:
    """Return the file's normalized images (n, c, h, w) as (n, h, w, c)."""
    return jnp.asarray(vectors["in/image"].transpose(0, 2, 3, 1))


def _round_trip(tensors: Mapping[str, np.ndarray], back: Mapping[str, np.ndarray]) -> Check:
    """Compare the file's tensors with those that were converted to our parameters and back."""
    wrong = [
        name
        for name in tensors.keys() | back.keys()
        if name not in back or not np.array_equal(back[name], tensors[name])
    ]
    return Check(
        f"{len(tensors)} tensors to our parameters and back",
        len(wrong),
        0,
        "tensors that differ",
        is_count=True,
    )


def _batch(vectors: Vectors, video: np.ndarray) -> Batch:
    """Return the file's inputs as a batch; its video is normalized, (b, t, c, h, w)."""
    clips, frames = video.shape[:2]
    return {
        "video": jnp.asarray(video.transpose(0, 1, 3, 4, 2)),
        "frame_lengths": jnp.full((clips,), frames, jnp.int32),
        "tokens": jnp.asarray(vectors["in/tokens"]),
        "token_lengths": jnp.asarray(vectors["in/lengths"]),
        "weights": jnp.ones((clips,)),
    }


def _gradient(definition: ModelDefinition, training: TrainingConfig):
    def loss(params, batch):
        return translation_loss(definition.bind(params), batch, loss_denominators(batch), training)

    return jax.jit(jax.grad(loss, has_aux=True))


def _losses(parts: LossParts) -> list[jax.Array]:
    """Total, cross-entropy and CTC."""
    return [parts.total, parts.metrics["ce"], parts.metrics["ctc"]]


def _absolute(group: str, ours, theirs) -> Check:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return Check(group, float(np.max(np.abs(ours - theirs))), _ABSOLUTE_TOLERANCE)


def _relative(group: str, ours, theirs, tolerance: float, floor: float = 1e-12) -> Check:
    """Compare differences relative to |theirs|, or to `floor` where |theirs| is smaller."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    difference = float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), floor)))
    return Check(group, difference, tolerance, "relative")


def _ids(group: str, ours, theirs, pad_id: int) -> Check:
    """Compare ids (clips, width); where one array is wider, its further ids must be padding."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    width = max(ours.shape[1], theirs.shape[1])
    ours, theirs = (
        np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=pad_id)
        for ids in (ours, theirs)
    )
    return Check(group, int(np.sum(ours != theirs)), 0, "ids that differ", is_count=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vectors", required=True, type=Path, help="an .npz file of reference numbers"
    )
    path = parser.parse_args().vectors
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors = {name: file[name] for name in file.files}
        checks = list(comparison(vectors)(vectors))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = f"has no key {error}" if isinstance(error, KeyError) else error
        print(clean(f"error: {path}: {reason}", keep="\n"), file=sys.stderr)
        return 2
    _print(checks)
    return 0 if all(check.passed for check in checks) else 1


def _print(checks: list[Check]) -> None:
    table = Table(
        Column("group", no_wrap=True),
        "largest difference",
        "tolerance",
        "measure",
        "",
        title="Agreement with the reference",
    )
    for check in checks:
        table.add_row(
            escape(check.group),
            f"{check.difference:.0f}" if check.is_count else f"{check.difference:.2e}",
            f"{check.tolerance:.0f}" if check.is_count else f"{check.tolerance:.0e}",
            check.measure,
            "[green]agrees" if check.passed else "[red]DIFFERS",
        )
    print_table(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
