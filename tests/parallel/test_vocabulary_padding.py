"""The padding of vocabularies whose size the tensor axis of a mesh does not divide."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import new_state
from signvit_jax.parallel.mesh import AXES
from signvit_jax.parallel.sharding import parameter_path
from signvit_jax.parallel.vocabulary_padding import padded_shapes, resize_vocab_like
from tests.helpers import tiny_model

FOUR_WAYS = AbstractMesh((1, 2, 4), AXES)
PADDED = {
    "/decoder/embedding": (20, 16),
    "gloss_encoder/embedding": (12, 16),
    "ctc_head/out/kernel": (16, 12),
    "ctc_head/out/bias": (12,),
}


def shapes_by_path(tree):
    return {
        parameter_path(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_only_the_vocabulary_is_padded():
    """Parameters, their moving average and their two moments are padded."""
    tiny = tiny_model.config(**tiny_model.READS_GLOSSES, training__ema_decay=0.9)
    definition = ModelDefinition(tiny, 17, 11)
    optimizer = make_optimizer(tiny.training, 10)
    plain, padded = (
        shapes_by_path(jax.eval_shape(lambda mesh=mesh: new_state(definition, optimizer, 0, mesh)))
        for mesh in (None, FOUR_WAYS)
    )
    assert plain.keys() == padded.keys()
    changed = {path: shape for path, shape in padded.items() if plain[path] != shape}
    assert len(changed) == 4 * len(PADDED)
    for path, shape in changed.items():
        (expected,) = [padded_shape for name, padded_shape in PADDED.items() if path.endswith(name)]
        assert shape == expected


def test_padding_is_zeros_and_can_be_removed():
    tree = {
        "decoder": {"embedding": jnp.arange(34.0).reshape(17, 2) + 1},
        "other": {"kernel": jnp.ones((17, 3))},
    }
    padded = resize_vocab_like(tree, padded_shapes(tree, FOUR_WAYS))
    table = np.asarray(padded["decoder"]["embedding"])
    assert table.shape == (20, 2)
    assert not table[17:].any()
    assert padded["other"]["kernel"] is tree["other"]["kernel"]
    jax.tree.map(np.testing.assert_array_equal, resize_vocab_like(padded, tree), tree)


def test_a_vocabulary_that_fits_is_not_changed():
    tree = {"decoder": {"embedding": jnp.ones((16, 2))}}
    resized = resize_vocab_like(tree, padded_shapes(tree, FOUR_WAYS))
    assert resized["decoder"]["embedding"] is tree["decoder"]["embedding"]
