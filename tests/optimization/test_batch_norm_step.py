"""Training steps of a model with BatchNorm, a MobileNet of three blocks instead of fifteen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.backbones import mobilenet_v3
from signvit_jax.backbones.mobilenet_v3 import BlockSpec, MobileNetSpec
from tests.helpers import tiny_model
from tests.optimization.test_train_step import NO_DROPOUT, Run, same

pytestmark = pytest.mark.xdist_group("train_step")

SIZES = MobileNetSpec(
    8,
    (
        BlockSpec(3, 8, 8, 0, False, 1),
        BlockSpec(3, 16, 8, 8, True, 2),
        BlockSpec(5, 16, 16, 0, True, 1),
    ),
    96,
)
RATE = 0.05  # share of the batch in the new running statistics
CHANGES = (
    NO_DROPOUT
    | tiny_model.MOBILENET
    | {"training__ema_decay": 0.9, "training__weight_decay": 0.5, "training__encoder_lr": 0.1}
)
CHANGES["model__encoder__batch_norm_momentum"] = RATE


@pytest.fixture(scope="module", autouse=True)
def _three_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v3, "mobilenet_v3_large_spec", lambda width: SIZES)
        yield


@pytest.fixture(scope="module")
def plain(_three_blocks):
    return Run(**CHANGES)


@pytest.fixture(scope="module")
def halves(_three_blocks):
    """The same with two microbatches per batch: rows 0 and 2, then rows 1 and 3."""
    return Run(**CHANGES, training__gradient_accumulation=2)


def batch(weights=(1, 1, 0, 1)) -> dict[str, np.ndarray]:
    """Return a batch whose first clip has padding frames; rows with weight 0 are padding."""
    return tiny_model.batch() | {
        "frame_lengths": np.array([4, 6, 6, 6], np.int32),
        "weights": np.array(weights, np.float32),
    }


def valid_frames(batch) -> np.ndarray:
    """Return bool (clips, frames), True for the frames that count in the statistics."""
    return (np.arange(6) < batch["frame_lengths"][:, None]) & (batch["weights"][:, None] == 1)


def statistics(params) -> list[np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params["encoder"]["backbone"])
    return [np.asarray(leaf) for path, leaf in leaves if path[-1].key in ("mean", "var")]


def stem_of_valid_frames(params, batch) -> np.ndarray:
    """Return the outputs of the stem's convolution for the valid frames, (frames, h, w, c)."""
    frames = batch["video"][valid_frames(batch)].astype(np.float32) / 255.0
    images = (frames - np.array([0.485, 0.456, 0.406], np.float32)) / np.array(
        [0.229, 0.224, 0.225], np.float32
    )
    kernel = params["encoder"]["backbone"]["stem"]["conv"]["kernel"]
    return np.asarray(
        jax.lax.conv_general_dilated(
            images, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )


@pytest.mark.parametrize(
    "weights",
    [[1, 1, 0, 1], [1, 0, 1, 0]],
    ids=["some padding rows", "a microbatch of padding rows"],
)
@pytest.mark.parametrize("microbatches", ["plain", pytest.param("halves", marks=pytest.mark.long)])
def test_running_statistics_move_to_those_of_all_valid_frames(request, microbatches, weights):
    run = request.getfixturevalue(microbatches)
    start = run.fresh()
    outputs = stem_of_valid_frames(start.params, batch(weights))
    state, report = run.step(run.fresh(), batch(weights))
    norm = state.params["encoder"]["backbone"]["stem"]["norm"]
    mean, variance = outputs.mean(axis=(0, 1, 2)), outputs.var(axis=(0, 1, 2))
    np.testing.assert_allclose(norm["mean"], RATE * mean, atol=1e-6)
    np.testing.assert_allclose(norm["var"], 1.0 - RATE + RATE * variance, atol=1e-5)
    assert all(
        not np.array_equal(old, new)
        for old, new in zip(statistics(start.params), statistics(state.params))
    )
    assert float(report.finite) == 1.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_padding_frames_and_rows_change_nothing(plain):
    noise = np.random.default_rng(7).integers(0, 256, batch()["video"].shape, dtype=np.uint8)
    valid = valid_frames(batch())[..., None, None, None]
    noisy_padding = batch() | {"video": np.where(valid, batch()["video"], noise)}
    state, report = plain.step(plain.fresh(), batch())
    noisy_state, noisy_report = plain.step(plain.fresh(), noisy_padding)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.params,
        noisy_state.params,
    )
    assert float(report.loss.total) == pytest.approx(float(noisy_report.loss.total), rel=1e-6)


def test_the_moving_average_covers_the_statistics(plain):
    state, _ = plain.step(plain.fresh(), batch())
    start = statistics(plain.fresh().params)
    for old, new, average in zip(start, statistics(state.params), statistics(state.ema)):
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, atol=1e-6)


def test_a_skipped_update_leaves_the_statistics(plain):
    state, report = plain.step(plain.fresh(), batch() | {"weights": np.full(4, np.nan, np.float32)})
    assert float(report.finite) == 0.0
    assert same(statistics(state.params), statistics(plain.fresh().params))


def test_evaluation_uses_the_running_statistics(plain):
    params = plain.fresh().params
    complete, alone = (
        plain.evaluate(params, batch() | {"weights": np.array(weights, np.float32)})
        for weights in ([1, 1, 1, 1], [0, 1, 0, 0])
    )
    others = plain.evaluate(params, batch() | {"weights": np.array([1, 0, 1, 1], np.float32)})
    np.testing.assert_allclose(alone["ce"] + others["ce"], complete["ce"], rtol=1e-5)


@pytest.mark.long
def test_a_frozen_backbone_keeps_its_statistics_until_it_thaws(plain):
    frozen, start = Run(frozen=True, **CHANGES), plain.fresh()
    state, _ = frozen.step(frozen.fresh(), batch())
    assert same(state.params["encoder"]["backbone"], start.params["encoder"]["backbone"])
    assert not same(state.params["encoder"]["temporal"], start.params["encoder"]["temporal"])
    thawed, _ = plain.step(jax.tree.map(jnp.copy, state), batch())
    backbones = [
        jax.tree.leaves(params["encoder"]["backbone"]) for params in (start.params, thawed.params)
    ]
    assert all(not np.array_equal(a, b) for a, b in zip(*backbones))
