"""The localizer of hands: what it learns from motion, and its loss by hand."""

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
    localization_loss,
    places,
)


def signing(seed, clips, frames=4, moves=True):
    """Two light hands that move on arms before a wall with pictures; video and the hands' places.

    The arms move as much as the hands, over a larger area.
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


def test_it_finds_both_hands_where_nothing_moves():
    localizer = HandLocalizer(dtype=jnp.float32, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(localizer, optax.adam(3e-3), wrt=nnx.Param)
    mask = jnp.ones((8, 4), bool)

    @nnx.jit
    def update(localizer, optimizer, video):
        def loss(localizer):
            maps = localizer(video.reshape(-1, *video.shape[2:]))
            maps = maps.reshape(*video.shape[:2], *maps.shape[1:])
            return localization_loss(maps, video, mask).mean()

        optimizer.update(localizer, nnx.grad(loss)(localizer))

    for seed in range(150):
        update(localizer, optimizer, signing(seed, 8)[0])
    still, hands = signing(1000, 60, frames=1, moves=False)
    found = places(localizer(still[:, 0])).center
    distance = np.abs(found - hands[:, 0]).max(axis=-1)
    # Half the side of a crop is 0.2.
    assert np.mean(distance < 0.15) >= 0.9, np.sort(distance.ravel())[-20:]


def random_maps(shape):
    logits = jax.random.normal(jax.random.key(0), (*shape, HANDS, GRID * GRID))
    return jax.nn.log_softmax(logits).reshape(*shape, HANDS, GRID, GRID)


def test_the_loss_is_the_cross_entropy_of_the_mean_map():
    maps = random_maps((1, 3))
    images = np.zeros((1, 3, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
    images[0, 1, 8:12, 20:24] = 3.0  # cell (2, 5), in the second frame alone
    found = localization_loss(maps, jnp.asarray(images), jnp.ones((1, 3), bool))
    share = np.exp(np.asarray(maps[0, :, :, 2, 5])).mean(axis=1)  # of each frame, of both hands
    amounts = 27.0 * np.array([1.0, 2.0, 1.0])  # of motion; the second frame comes and goes
    weights = amounts / (amounts.mean() + 256 * 0.01)
    assert weights.max() < 2.0
    np.testing.assert_allclose(found[0], np.sum(weights * -np.log(share)) / 3, rtol=1e-5)


def test_padding_and_still_clips_have_no_part_in_the_loss():
    video = signing(0, 2)[0]
    maps = random_maps((2, 4))
    lengths = jnp.asarray([4, 2])
    mask = jnp.arange(4) < lengths[:, None]
    found = localization_loss(maps, video, mask)
    short = localization_loss(maps[1:, :2], video[1:, :2], jnp.ones((1, 2), bool))
    np.testing.assert_allclose(found[1], short[0], rtol=1e-6)
    still = jnp.broadcast_to(video[:, :1], video.shape)
    assert np.abs(localization_loss(maps, still, mask)).max() == 0.0


def test_a_map_of_one_cell_is_its_middle():
    maps = np.full((HANDS, GRID, GRID), -50.0, np.float32)
    maps[0, 3, 10] = maps[1, 15, 0] = 0.0
    found = places(jnp.asarray(maps))
    np.testing.assert_allclose(
        found.center, [[3.5 / GRID, 10.5 / GRID], [15.5 / GRID, 0.5 / GRID]], atol=1e-6
    )
    np.testing.assert_allclose(found.spread, 0.0, atol=1e-3)
