"""Definitions of exported models, whose modules differ from those of the model that was trained."""

from collections.abc import Callable

from flax import nnx
from jaxtyping import PyTree

from signvit_jax.config.schema import Config
from signvit_jax.layers.compute_policy import ComputePolicy, compute_policy
from signvit_jax.models.definition import merge_parameters, parameters_of
from signvit_jax.models.translator import SignTranslator, abstract_model


class ModifiedDefinition:
    """A `ModelDefinition` of a modified model: with INT8 layers, or without its encoder.

    `transform` modifies the abstract model once, in place.
    """

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        gloss_vocab_size: int,
        transform: Callable[[SignTranslator], None],
        policy: ComputePolicy | None = None,
    ):
        self.config = config
        self.policy = policy or compute_policy(config)
        model = abstract_model(config, vocab_size, gloss_vocab_size, self.policy)
        transform(model)
        self._graphdef, self._state = nnx.split(model)
        self._shapes = parameters_of(model)

    def abstract_params(self) -> PyTree:
        """Shapes and dtypes of the parameters."""
        return self._shapes

    def bind(self, params: PyTree) -> SignTranslator:
        """The model with these parameters."""
        return merge_parameters(self._graphdef, self._state, params)


def without_encoder(model: SignTranslator) -> None:
    """A transform that removes the encoder, for clips that another program encodes."""
    del model.encoder
