"""The loss on keypoints: its value, the view's coordinates, its falling weight, its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.data.keypoints import DRAWN
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.translator import Encoded, View
from signvit_jax.models.zoom import Square
from signvit_jax.optimization.keypoint_loss import (
    KEYPOINT_HEAD,
    KeypointTerm,
    huber,
    initial_keypoint_head,
)
from signvit_jax.optimization.losses import LossCounts, Outputs, TermInputs
from signvit_jax.optimization.train_step import loss_terms
from tests.helpers import tiny_model


def term_of(features, points, lengths, *, square=None, head=None, step=None, **training):
    """Return (the weighted loss, the metric) for features (b, t, f) and points (b, t, k, 3).

    By default the head returns the features, and the view is the complete frame.
    """
    b, t, width = features.shape
    square = square or Square(jnp.full((b, 2), 0.5), jnp.full(b, 0.5))
    head = head or {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    encoded = Encoded(
        jnp.zeros((b, 1, 1)),
        jnp.zeros((b, t, 1)),
        jnp.asarray(lengths),
        view=View(jnp.asarray(features), square),
    )
    config = tiny_model.config(training__keypoint_weight=0.5, **training).training
    batch = {"keypoints": points, "weights": np.ones(b, np.float32)}
    counts = LossCounts(jnp.asarray(float(b)), jnp.asarray(1.0))
    outputs = Outputs(encoded, jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    inputs = TermInputs(None, outputs, batch, counts, step, {KEYPOINT_HEAD: head})
    total, metrics = KeypointTerm(config)(inputs)
    return float(total), float(metrics["keypoints"])


def test_huber_is_a_square_near_zero_and_linear_beyond():
    np.testing.assert_allclose(
        huber(jnp.asarray([0.0, 0.05, -0.1, 0.6])), [0, 0.00125, 0.005, 0.1 * 0.55], rtol=1e-6
    )


def test_the_loss_is_the_weighted_mean_error_in_the_views_coordinates():
    square = Square(jnp.asarray([[0.4, 0.6]]), jnp.asarray([0.25]))  # y 0.15-0.65, x 0.35-0.85
    points = np.zeros((1, 3, 2, 3), np.float32)  # x, y, confidence
    points[0, 0] = [0.6, 0.4, 1.0], [0.85, 0.15, 0.5]  # the middle, and a corner
    points[0, 1] = [0.2, 0.4, 1.0], [np.nan, np.nan, 0.0]  # outside, and missing
    points[0, 2] = [0.6, 0.4, 1.0], [0.6, 0.4, 1.0]  # padding
    features = np.full((1, 3, 4), 7.0, np.float32)
    features[0, 0] = 0.05, 0.0, -0.5, 1.0  # y and x of each point; the targets are 0, 0, -1, 1
    total, metric = term_of(features, points, [2], square=square)
    expected = (1.0 * 0.00125 + 0.5 * 0.1 * 0.45) / 0.1 / 1.5
    np.testing.assert_allclose([metric, total], [expected, 0.5 * expected], rtol=1e-5)


def test_clips_without_points_add_nothing():
    features = np.ones((2, 3, 4), np.float32)
    points = np.zeros((2, 3, 2, 3), np.float32)
    assert term_of(features, points, [3, 3]) == (0.0, 0.0)


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (15, 0.25), (20, 0.0), (500, 0.0)])
def test_the_weight_falls_to_zero(step, share):
    features, points = np.zeros((1, 1, 2), np.float32), np.ones((1, 1, 1, 3), np.float32)
    total, metric = term_of(
        features, points, [1], step=jnp.asarray(step), training__keypoint_steps=20
    )
    np.testing.assert_allclose(total, 0.5 * metric * share, rtol=1e-6)
    assert metric > 0.0
    assert term_of(features, points, [1], step=jnp.asarray(step))[0] == pytest.approx(0.5 * metric)


def test_without_a_weight_or_points_there_is_no_term():
    config = tiny_model.config(training__keypoint_weight=0.5).training
    batch = tiny_model.batch()
    with_points = batch | {"keypoints": np.zeros((4, 6, 11, 3), np.float32)}
    without_weight = tiny_model.config().training
    assert len(loss_terms(without_weight, with_points)) == len(loss_terms(config, batch)) == 2
    assert len(loss_terms(config, with_points)) == 3


def test_only_the_backbone_gets_gradients_from_points():
    config = tiny_model.config(
        training__keypoint_weight=1.0, model__encoder__zoom="motion", model__encoder__dropout=0.0
    )
    definition = ModelDefinition(config, tiny_model.VOCABULARY)
    points = np.random.default_rng(0).uniform(0.3, 0.7, (4, 6, len(DRAWN.points), 3))
    batch = tiny_model.batch() | {"keypoints": points.astype(np.float32)}
    head = initial_keypoint_head(config.model.encoder.output_dim, len(DRAWN.points), 0)

    def loss(params):
        model = definition.bind(params)
        encoded = model.encode(
            jnp.asarray(batch["video"]), jnp.asarray(batch["frame_lengths"]), jax.random.key(0)
        )
        counts = LossCounts(jnp.asarray(4.0), jnp.asarray(1.0))
        outputs = Outputs(encoded, jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
        return KeypointTerm(config.training)(
            TermInputs(model, outputs, batch, counts, jnp.asarray(0), head)
        )[0]

    gradient = jax.jit(jax.grad(loss))(definition.init(0))
    with_gradient = [
        name
        for name, tree in gradient["encoder"].items()
        if any(np.any(leaf != 0.0) for leaf in jax.tree.leaves(tree))
    ]
    assert with_gradient == ["backbone"]
