"""The localizer of hands: training on motion and on keypoints, and the values of its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from signvit_jax.models.hand_localizer import (
    GRID,
    HANDS,
    INPUT_SIZE,
    HandLocalizer,
    Localization,
    PartMaps,
    cell_motion,
    localization_loss,
    places,
)
from signvit_jax.models.zoom import Square, whole_image


def signing(seed, clips, frames=4, moves=True):
    """Return (video, positions) of two light hands that move on arms in front of a wall.

    Positions are (y, x) as fractions of the image, (clips, frames, hands, 2). The wall is covered
    with pictures. The arms move as much as the hands, over a larger area.
    """
    rng = np.random.default_rng(seed)
    video = np.zeros((clips, frames, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
    hands = np.zeros((clips, frames, HANDS, 2))
    rows, columns = np.mgrid[:INPUT_SIZE, :INPUT_SIZE]
    for clip in range(clips):
        wall = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.float32)
        for _ in range(4):
            y, x = rng.integers(0, INPUT_SIZE - 12, 2)
            wall[y : y + 12, x : x + 12] = rng.uniform(-1, 1, 3)
        start = rng.uniform((14, 8), (36, 26), (HANDS, 2)) + np.array([[0, 0], [0, 30]])
        for frame in range(frames):
            shift = rng.uniform(-6, 6, (HANDS, 2)) if moves else 0.0
            image = wall.copy()
            for y, x in start + shift:
                image[(np.abs(columns - x) < 3) & (rows > y)] = -1.0  # the arm
                image[(rows - y) ** 2 + (columns - x) ** 2 < 16] = (2.0, 1.2, 0.8)
            video[clip, frame] = image
            hands[clip, frame] = (start + shift + 0.5) / INPUT_SIZE
    return jnp.asarray(video), hands


def loss_of(maps, images, mask, points=None, presence=None, view=None):
    presence = jnp.zeros(maps.shape[:-2]) if presence is None else presence
    motion = cell_motion(jnp.asarray(images), mask)
    view = whole_image(maps.shape[0]) if view is None else view
    localization = Localization(PartMaps(maps, presence), motion, view)
    return localization_loss(localization, mask, points)


def test_the_localizer_finds_both_hands_in_still_images():
    localizer = HandLocalizer(HANDS, dtype=jnp.float32, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(localizer, optax.adam(3e-3), wrt=nnx.Param)
    mask = jnp.ones((8, 4), bool)

    @nnx.jit
    def update(localizer, optimizer, video):
        def loss(localizer):
            maps = localizer(video.reshape(-1, *video.shape[2:])).maps
            return loss_of(maps.reshape(*video.shape[:2], *maps.shape[1:]), video, mask).mean()

        optimizer.update(localizer, nnx.grad(loss)(localizer))

    for seed in range(150):
        update(localizer, optimizer, signing(seed, 8)[0])
    still, hands = signing(1000, 60, frames=1, moves=False)
    found = places(localizer(still[:, 0]).maps).center
    distance = np.abs(found - hands[:, 0]).max(axis=-1)
    # The tolerance is below half the side of a crop, 0.2, so that a crop contains the hand.
    assert np.mean(distance < 0.15) >= 0.9, np.sort(distance.ravel())[-20:]


def random_maps(shape):
    logits = jax.random.normal(jax.random.key(0), (*shape, HANDS, GRID * GRID))
    return jax.nn.log_softmax(logits).reshape(*shape, HANDS, GRID, GRID)


def test_the_loss_is_the_cross_entropy_of_the_mean_map():
    maps = random_maps((1, 3))
    images = np.zeros((1, 3, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
    images[0, 1, 8:12, 20:24] = 3.0  # cell (2, 5), only in the second frame
    found = loss_of(maps, images, jnp.ones((1, 3), bool))
    mean_map = np.exp(np.asarray(maps[0, :, :, 2, 5])).mean(axis=1)  # (frames,), over both hands
    # The second frame differs from the frame before and from the frame after.
    motion = 27.0 * np.array([1.0, 2.0, 1.0])
    weights = motion / (motion.mean() + 256 * 0.01)
    assert weights.max() < 2.0
    np.testing.assert_allclose(found[0], np.sum(weights * -np.log(mean_map)) / 3, rtol=1e-5)


def test_padding_and_still_clips_add_nothing_to_the_loss():
    video = signing(0, 2)[0]
    maps = random_maps((2, 4))
    lengths = jnp.asarray([4, 2])
    mask = jnp.arange(4) < lengths[:, None]
    found = loss_of(maps, video, mask)
    short = loss_of(maps[1:, :2], video[1:, :2], jnp.ones((1, 2), bool))
    np.testing.assert_allclose(found[1], short[0], rtol=1e-6)
    still = jnp.broadcast_to(video[:, :1], video.shape)
    assert np.abs(loss_of(maps, still, mask)).max() == 0.0


def test_a_map_of_one_cell_is_its_middle():
    maps = np.full((HANDS, GRID, GRID), -50.0, np.float32)
    maps[0, 3, 10] = maps[1, 15, 0] = 0.0
    found = places(jnp.asarray(maps))
    np.testing.assert_allclose(
        found.center, [[3.5 / GRID, 10.5 / GRID], [15.5 / GRID, 0.5 / GRID]], atol=1e-6
    )
    np.testing.assert_allclose(found.spread, 0.0, atol=1e-3)


def random_points(clips, frames, parts=HANDS):
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 0.7, (clips, frames, parts, 3)).astype(np.float32)
    points[..., 2] = 1.0
    return jnp.asarray(points)


def test_all_points_inside_the_view_are_learned():
    view = Square(jnp.asarray([[0.5, 0.4], [0.45, 0.55]]), jnp.asarray([0.35, 0.4]))
    points = random_points(2, 3)

    def loss(logits, presence):
        maps = jax.nn.log_softmax(logits.reshape(2, 3, HANDS, -1)).reshape(logits.shape)
        images = jnp.zeros((2, 3, INPUT_SIZE, INPUT_SIZE, 3))
        return loss_of(maps, images, jnp.ones((2, 3), bool), points, presence, view).sum(), maps

    optimizer = optax.adam(0.3)
    params = jnp.zeros((2, 3, HANDS, GRID, GRID)), jnp.zeros((2, 3, HANDS))
    state = optimizer.init(params)

    @jax.jit
    def update(params, state):
        gradients = jax.grad(lambda params: loss(*params)[0])(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    for _ in range(200):
        params, state = update(params, state)
    found = places(loss(*params)[1]).center
    # From positions in the view to positions in the image.
    corner, side = (view.center - view.reach[:, None]), 2.0 * view.reach[:, None, None, None]
    found = corner[:, None, None] + found * side
    assert np.abs(found - points[..., :2]).max() < 0.8 / GRID / 4  # a quarter of a cell
    assert params[1].min() > 3.0  # all parts are present


def test_points_that_are_missing_or_outside_the_view_are_not_present():
    view = Square(jnp.full((1, 2), 0.5), jnp.full(1, 0.25))
    points = np.full((1, 2, HANDS, 3), 0.5, np.float32)
    points[0, 0, 0] = 0.5, 0.8, 1.0  # outside the view
    points[0, 0, 1] = np.nan, np.nan, 0.0  # missing
    points[0, 1, :, 2] = 1.0
    images = jnp.zeros((1, 2, INPUT_SIZE, INPUT_SIZE, 3))

    def loss(presence, points):
        maps = random_maps((1, 2))
        return loss_of(maps, images, jnp.ones((1, 2), bool), points, presence, view)[0]

    gradient = jax.grad(loss)(jnp.zeros((1, 2, HANDS)), jnp.asarray(points))
    np.testing.assert_allclose(gradient[0], [[0.125, 0.125], [-0.125, -0.125]], rtol=1e-6)
    # The position of a missing point does not count.
    moved = points.copy()
    moved[0, 0, 1, :2] = 0.1
    found = loss(jnp.zeros((1, 2, HANDS)), jnp.asarray(points))
    assert np.isfinite(found)
    assert found == loss(jnp.zeros((1, 2, HANDS)), jnp.asarray(moved))


def test_clips_without_points_learn_from_motion():
    video = signing(0, 3)[0]
    maps, mask = random_maps((3, 4)), jnp.arange(4) < jnp.asarray([4, 4, 2])[:, None]
    points = np.array(random_points(3, 4))
    points[0, :, :, 2] = 0.0
    points[2, :2, :, 2] = 0.0  # only padding frames have a confidence
    found = loss_of(maps, video, mask, jnp.asarray(points))
    by_motion = loss_of(maps, video, mask)
    np.testing.assert_array_equal(found[jnp.asarray([0, 2])], by_motion[jnp.asarray([0, 2])])
    assert np.abs(found[1] - by_motion[1]) > 0.1


def test_the_face_does_not_count_in_the_loss_on_motion():
    video, mask = signing(0, 2)[0], jnp.ones((2, 4), bool)
    logits = jax.random.normal(jax.random.key(1), (2, 4, 3, GRID * GRID))
    maps = jax.nn.log_softmax(logits).reshape(2, 4, 3, GRID, GRID)
    np.testing.assert_array_equal(
        loss_of(maps, video, mask), loss_of(maps[:, :, :HANDS], video, mask)
    )
