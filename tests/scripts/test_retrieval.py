"""Tests of the benchmark of retrieval: its distances, and the ranks that follow from them."""

import numpy as np

from signvit_jax.data.keypoints import DRAWN
from tests.helpers.scripts import load_script

retrieval = load_script("bench/retrieval")


def random_units(*shape):
    return retrieval.unit(np.random.default_rng(len(shape)).standard_normal(shape))


def path_cost(cost, i, j):
    """Return the lowest cost of a path to (i, j), by trying all paths."""
    if i == 0 and j == 0:
        return cost[0, 0]
    steps = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
    return cost[i, j] + min(path_cost(cost, *step) for step in steps if min(step) >= 0)


def test_warped_distances_are_those_of_the_best_path():
    clip, others = random_units(4, 6), random_units(3, 5, 6)
    lengths = np.array([5, 3, 1])
    found = retrieval.warped_distances(clip, others, lengths)
    for distance, other, length in zip(found, others, lengths):
        cost = 1.0 - clip @ other[:length].T
        expected = path_cost(cost, 3, length - 1) / (4 + length)
        np.testing.assert_allclose(distance, expected, rtol=1e-9)


def clip(text, group):
    return retrieval.Clip(text, group, np.zeros((1, 4, 4, 3), np.uint8), None)


def test_ranks_are_of_the_same_text_in_another_group():
    clips = [clip("a", "x"), clip("a", "x"), clip("a", "y"), clip("b", "y"), clip("c", "y")]
    same, elsewhere = retrieval.matches(clips)
    assert same.sum() == 4 and elsewhere.sum() == 12
    directions = np.eye(3)
    # In the other group, the first clip is most similar to "b" and the second clip to "a".
    mostly_b = directions[1] + 0.5 * directions[0]
    features = [mostly_b, directions[0], directions[0], directions[1], directions[2]]
    ranks = retrieval.first_ranks(
        [feature[None] for feature in features], same, elsewhere, np.ones(5, bool)
    )
    assert ranks.tolist() == [2, 1, 1]


def test_a_pose_does_not_depend_on_place_and_size():
    rng = np.random.default_rng(0)
    points = rng.uniform(0.2, 0.8, (3, len(DRAWN.points), 3)).astype(np.float32)
    points[..., 2] = 1.0
    moved = points.copy()
    moved[..., :2] = 0.5 * points[..., :2] + 0.1
    video = np.zeros((3, 4, 4, 3), np.uint8)
    first, second = (
        retrieval.pose(retrieval.Clip("a", "x", video, keypoints), DRAWN)
        for keypoints in (points, moved)
    )
    np.testing.assert_allclose(first, second, rtol=1e-4)
    moved[..., 2] = 0.0
    assert retrieval.pose(retrieval.Clip("a", "x", video, moved), DRAWN) is None
