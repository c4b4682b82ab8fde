"""A model without its numbers: the graph, and pure functions of a parameter dict."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import PyTree

from signvit_jax.config.schema import Config
from signvit_jax.models.translator import SAVED, SignTranslator, abstract_model
from signvit_jax.parallel.vocabulary import resize_vocab_like


class ModelDefinition:
    """The model without its numbers: how to make them, and how to put them back in.

    Flax's mutable modules end here: everything downstream is a pure function of a parameter dict.
    """

    def __init__(self, config: Config, vocab_size: int, gloss_vocab_size: int = 0):
        self.config, self.vocab_size, self.gloss_vocab_size = config, vocab_size, gloss_vocab_size
        model = abstract_model(config, vocab_size, gloss_vocab_size)
        self.graphdef, self.abstract_state = nnx.split(model)
        self._shapes = parameters_of(model)

    def init(self, seed: int) -> PyTree:
        """Fresh parameters (traceable)."""
        model = SignTranslator(
            self.config,
            self.vocab_size,
            self.gloss_vocab_size,
            rngs=nnx.Rngs(params=jax.random.key(seed)),
        )
        return parameters_of(model)

    def abstract_params(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return self._shapes

    def bind(self, params: PyTree) -> SignTranslator:
        """The model with these parameters; a vocabulary padded for a mesh is cut to its own length."""
        params = resize_vocab_like(params, self._shapes)
        state = jax.tree.map(lambda leaf: leaf, self.abstract_state)
        nnx.replace_by_pure_dict(state, nnx.restore_int_paths(params))
        return nnx.merge(self.graphdef, state)


def parameters_of(model: nnx.Module) -> PyTree:
    """The model's parameters, BatchNorm's statistics among them, as nested dicts with string keys, the numbers of listed modules included."""

    def plain(node: Any) -> Any:
        return (
            {str(name): plain(child) for name, child in node.items()}
            if isinstance(node, dict)
            else node
        )

    return plain(nnx.to_pure_dict(nnx.state(model, SAVED)))
