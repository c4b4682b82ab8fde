"""The CTC loss, compared with sums over all alignments, numeric differences, and optax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from signvit_jax.models.ctc_loss import ctc_loss as traced_ctc_loss

ctc_loss = jax.jit(traced_ctc_loss)


@jax.jit
def loss_and_gradient(logits, logit_lengths, labels, label_lengths):
    """Return ((sum of the losses, feasible), gradient of the sum)."""

    def total(x):
        loss, feasible = traced_ctc_loss(x, logit_lengths, labels, label_lengths)
        return loss.sum(), feasible

    return jax.value_and_grad(total, has_aux=True)(logits)


def collapse(path):
    return tuple(word for word, _ in itertools.groupby(path) if word != 0)


def brute_force(logits, labels):
    """Return minus the log of the sum over all v^s paths with these labels, for one row."""
    logits = np.asarray(logits, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=logits.shape[0]):
        if collapse(path) == tuple(labels):
            total += np.exp(sum(log_probs[t, word] for t, word in enumerate(path)))
    return -np.log(total) if total > 0 else np.inf


def random_logits(*shape, seed=0, scale=2.0):
    return scale * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


ROWS = [  # (steps, labels) within 5 steps and a vocabulary of 4
    (5, [1, 2]),
    (5, [1, 1]),
    (5, [3, 3, 2]),
    (4, [2]),
    (3, [1, 2, 3]),
    (5, []),
    (1, [3]),
    (5, [1, 2, 1]),
]


def padded(rows, width, padding=0):
    """Return (labels, label_lengths, logit_lengths) of rows (steps, labels)."""
    labels = np.full((len(rows), width), padding, np.int32)
    for i, (_, row) in enumerate(rows):
        labels[i, : len(row)] = row
    label_lengths = np.array([len(row) for _, row in rows], np.int32)
    logit_lengths = np.array([steps for steps, _ in rows], np.int32)
    return labels, label_lengths, logit_lengths


def test_the_loss_is_the_sum_over_all_alignments():
    logits = random_logits(len(ROWS), 5, 4)
    labels, label_lengths, logit_lengths = padded(ROWS, 4)
    loss, feasible = ctc_loss(logits, logit_lengths, labels, label_lengths)
    expected = [brute_force(logits[i, :steps], row) for i, (steps, row) in enumerate(ROWS)]
    assert feasible.all()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_gradient_is_the_numeric_difference_of_brute_force():
    logits = random_logits(len(ROWS), 5, 4, seed=1)
    labels, label_lengths, logit_lengths = padded(ROWS, 3)
    weights = np.linspace(0.5, 2.0, len(ROWS))
    gradient = jax.jit(
        jax.grad(lambda x: jnp.sum(ctc_loss(x, logit_lengths, labels, label_lengths)[0] * weights))
    )(logits)
    expected = np.zeros(logits.shape)
    h = 1e-5
    for i, (steps, row) in enumerate(ROWS):
        for t, word in itertools.product(range(steps), range(4)):
            up, down = logits[i, :steps].astype(np.float64), logits[i, :steps].astype(np.float64)
            up[t, word] += h
            down[t, word] -= h
            expected[i, t, word] = (
                weights[i] * (brute_force(up, row) - brute_force(down, row)) / (2 * h)
            )
    np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_value_and_gradient_equal_optax():
    b, s, width, v = 6, 20, 7, 50
    rng = np.random.default_rng(3)
    logits = random_logits(b, s, v, seed=3)
    labels = rng.integers(1, 5, (b, width)).astype(np.int32)  # few words, so that neighbors repeat
    label_lengths, logit_lengths = np.array([7, 3, 0, 1, 5, 7]), np.array([20, 11, 4, 1, 15, 17])

    def ours(x):
        return ctc_loss(x, logit_lengths, labels, label_lengths)[0]

    def theirs(x):
        logit_padding = (np.arange(s) >= logit_lengths[:, None]).astype(np.float32)
        label_padding = (np.arange(width) >= label_lengths[:, None]).astype(np.float32)
        return optax.ctc_loss(x, logit_padding, labels, label_padding)

    np.testing.assert_allclose(ours(logits), theirs(logits), rtol=1e-4)
    ours_gradient, theirs_gradient = (
        jax.jit(jax.grad(lambda x, f=f: f(x).sum()))(logits) for f in (ours, theirs)
    )
    np.testing.assert_allclose(ours_gradient, theirs_gradient, atol=1e-4)


INFEASIBLE = {
    "too short": (2, [1, 2, 3]),
    "no room for the blank": (2, [1, 1]),
    "two repeats": (4, [1, 1, 1]),
    "no step": (0, [1]),
    "blank as label": (5, [1, 0, 2]),
    "beyond the vocabulary": (5, [1, 4]),
    "negative": (5, [-1]),
}


def test_infeasible_rows_have_no_loss_and_no_gradient():
    labels, label_lengths, logit_lengths = padded([(5, [1, 2]), *INFEASIBLE.values()], 3)
    logits = random_logits(len(labels), 5, 4, seed=4)
    (loss, feasible), gradient = loss_and_gradient(logits, logit_lengths, labels, label_lengths)
    assert feasible[0]
    assert [name for name, is_feasible in zip(INFEASIBLE, feasible[1:]) if is_feasible] == []
    np.testing.assert_allclose(loss, brute_force(logits[0], [1, 2]), rtol=1e-5)
    assert gradient[0].any() and not gradient[1:].any()


def test_rows_that_just_fit_are_feasible():
    rows = [(3, [1, 1]), (5, [1, 1, 1]), (3, [1, 2, 3]), (0, [])]
    labels, label_lengths, logit_lengths = padded(rows, 3)
    logits = random_logits(len(rows), 5, 4, seed=5)
    loss, feasible = ctc_loss(logits, logit_lengths, labels, label_lengths)
    assert feasible.all()
    np.testing.assert_allclose(
        loss[:3],
        [brute_force(logits[i, :steps], row) for i, (steps, row) in enumerate(rows[:3])],
        rtol=1e-5,
    )
    assert loss[3] == 0


def test_padding_of_steps_and_labels_changes_nothing():
    logits = random_logits(2, 6, 5, seed=6)
    labels, label_lengths, logit_lengths = padded([(6, [1, 1, 2]), (4, [3])], 3)
    wide_labels, _, _ = padded([(6, [1, 1, 2]), (4, [3])], 8, padding=3)  # repeats a label
    wide_logits = np.concatenate([logits, random_logits(2, 5, 5, seed=7, scale=30.0)], axis=1)
    wide_logits[1, 4:] = 40.0
    (narrow, _), narrow_gradient = loss_and_gradient(logits, logit_lengths, labels, label_lengths)
    (wide, _), wide_gradient = loss_and_gradient(
        wide_logits, logit_lengths, wide_labels, label_lengths
    )
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)
    np.testing.assert_allclose(narrow_gradient, wide_gradient[:, :6], atol=1e-6)
    assert not wide_gradient[:, 6:].any()


def test_without_labels_only_the_blank_path_counts():
    logits = random_logits(2, 3, 4, seed=8)
    loss, feasible = ctc_loss(
        logits, np.array([3, 2]), np.zeros((2, 0), np.int32), np.array([0, 0])
    )
    assert feasible.all()
    np.testing.assert_allclose(
        loss, [brute_force(logits[0], []), brute_force(logits[1, :2], [])], rtol=1e-5
    )


def test_the_loss_of_confident_rows_is_not_negative():
    rng = np.random.default_rng(9)
    paths = rng.integers(0, 30, (64, 40))
    logits = (
        40.0 * np.eye(30, dtype=np.float32)[paths]
        + rng.standard_normal((64, 40, 30)).astype(np.float32) * 0.01
    )
    labels, label_lengths, _ = padded([(40, collapse(path)) for path in paths.tolist()], 40)
    loss, feasible = ctc_loss(logits, np.full(64, 40), labels, label_lengths)
    assert feasible.all()
    assert (loss >= 0).all()
    assert (loss < 1e-3).all()


def test_thousands_of_nats_stay_finite_and_gradients_sum_to_zero():
    logits = random_logits(2, 200, 40, seed=10, scale=50.0)
    labels = np.random.default_rng(10).integers(1, 40, (2, 60)).astype(np.int32)
    (loss, _), gradient = loss_and_gradient(
        logits, np.array([200, 130]), labels, np.array([60, 60])
    )
    assert np.isfinite(loss)
    assert loss > 1000
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-4)


def test_nan_logits_give_a_nan_loss():
    """The training step then finds the loss not finite and skips the update."""
    logits = random_logits(2, 4, 5)
    logits[0, 1, 2] = np.nan
    loss, _ = ctc_loss(logits, np.array([4, 4]), np.array([[1], [1]]), np.array([1, 1]))
    assert np.isnan(loss[0])
    assert np.isfinite(loss[1])


def test_the_gradient_of_bf16_logits_is_rounded_once():
    """The gradient of a word that occurs three times is a sum, which is not added in bfloat16."""
    logits = jnp.asarray(random_logits(3, 24, 300, seed=11), jnp.bfloat16)
    labels = np.tile(np.array([5, 6, 5, 7, 5, 8], np.int32), (3, 1))
    lengths = np.array([24, 20, 12]), np.array([6, 6, 5])
    (loss, _), gradient = loss_and_gradient(logits, lengths[0], labels, lengths[1])
    (exact_loss, _), exact_gradient = loss_and_gradient(
        logits.astype(jnp.float32), lengths[0], labels, lengths[1]
    )
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-6)
    np.testing.assert_array_equal(gradient, exact_gradient.astype(jnp.bfloat16))


def test_no_other_array_of_the_vocabulary_size_is_kept():
    b, s, width, v = 2, 16, 8, 5000
    shapes = [
        jax.ShapeDtypeStruct((b, s, v), jnp.float32),
        jax.ShapeDtypeStruct((b,), jnp.int32),
        jax.ShapeDtypeStruct((b, width), jnp.int32),
        jax.ShapeDtypeStruct((b,), jnp.int32),
    ]
    memory = loss_and_gradient.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.5 * 4 * b * s * v
