"""The part of a trained model that its weights and programs are made from."""

from typing import Protocol

from jaxtyping import PyTree

from signvit_jax.config.schema import Config
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.definition import ModelDefinition


class Exportable(Protocol):
    """A config with its parameters: a `TrainedModel`, or a model with random weights.

    `define` is as in `TrainedModel`.
    """

    @property
    def config(self) -> Config: ...

    @property
    def params(self) -> PyTree: ...

    def define(self, policy: ComputePolicy) -> ModelDefinition: ...
