"""A model as pure functions of a parameter dict."""

from typing import Protocol, runtime_checkable

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from signvit_jax.config.schema import Config
from signvit_jax.layers.compute_policy import ComputePolicy, compute_policy
from signvit_jax.models.translator import SAVED, SignTranslator, abstract_model
from signvit_jax.parallel.sharding import gather_fsdp
from signvit_jax.parallel.vocabulary_padding import resize_vocab_like


class ModelDefinition:
    """A model without parameters: it initializes them, and binds them to the model.

    Only here are Flax's mutable modules taken apart: all code above works on parameter dicts.
    `policy` None is that of the run, `compute_policy(config)`.
    """

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        gloss_vocab_size: int = 0,
        policy: ComputePolicy | None = None,
    ):
        self.config = config
        self.vocab_size = vocab_size
        self.gloss_vocab_size = gloss_vocab_size
        self.policy = policy or compute_policy(config)
        model = abstract_model(config, vocab_size, gloss_vocab_size, self.policy)
        self.graphdef, self.abstract_state = nnx.split(model)
        self._shapes = parameters_of(model)

    def init(self, seed: int | Int[Array, ""]) -> PyTree:
        """Initialize the parameters (traceable)."""
        model = SignTranslator.from_config(
            self.config,
            self.vocab_size,
            self.gloss_vocab_size,
            policy=self.policy,
            rngs=nnx.Rngs(params=jax.random.key(seed)),
        )
        return parameters_of(model)

    def abstract_params(self) -> PyTree:
        """Return the shapes and dtypes of the parameters."""
        return self._shapes

    def bind(self, params: PyTree) -> SignTranslator:
        """Return the model with these parameters, without the padding of a sharded vocabulary."""
        params = resize_vocab_like(params, self._shapes)
        return merge_parameters(self.graphdef, self.abstract_state, params)


@runtime_checkable
class Bindable(Protocol):
    """What `bind_gathered` needs of a definition."""

    policy: ComputePolicy

    def bind(self, params: PyTree) -> SignTranslator: ...


def bind_gathered(definition: Bindable, params: PyTree, mesh: Mesh) -> SignTranslator:
    """Bind the parameters, all-gathered over the fsdp axis of the mesh that shards them."""
    return definition.bind(gather_fsdp(params, mesh, definition.policy.dtype))


def merge_parameters(
    graphdef: nnx.GraphDef[SignTranslator], abstract_state: nnx.State, params: PyTree
) -> SignTranslator:
    """Return the model with these parameters, as `parameters_of` gives them."""
    state = jax.tree.map(lambda leaf: leaf, abstract_state)  # a copy, which is filled
    nnx.replace_by_pure_dict(state, nnx.restore_int_paths(params))
    return nnx.merge(graphdef, state)


def parameters_of(model: nnx.Module) -> PyTree:
    """Return a model's parameters and BatchNorm statistics as nested dicts.

    All keys are strings, even the indices of modules in a list.
    """

    def with_string_keys(node: PyTree) -> PyTree:
        if not isinstance(node, dict):
            return node
        return {str(name): with_string_keys(child) for name, child in node.items()}

    return with_string_keys(nnx.to_pure_dict(nnx.state(model, SAVED)))
