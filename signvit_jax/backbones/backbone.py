"""The interface of the networks that turn images into features."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key, UInt8

from signvit_jax.layers.batch_norm import BatchMoments

# Turns stored images into normalized ones. A backbone that runs in chunks calls it on each chunk.
Preprocess = Callable[[Array], Float[Array, "n h w c"]]


class BackboneOutput(NamedTuple):
    """Features of images, and the sums that update BatchNorm's running statistics.

    `moments` is None in evaluation, and in a backbone without BatchNorm.
    """

    features: Float[Array, "n d"]
    moments: BatchMoments | None = None


@runtime_checkable
class Backbone(Protocol):
    """A network that turns each image into one feature."""

    def __call__(
        self,
        images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
        *,
        preprocess: Preprocess | None = None,
        rng: Key[Array, ""] | None = None,
        sample_mask: Float[Array, "n"] | None = None,
    ) -> BackboneOutput:
        """Compute the features of `preprocess(images)`, or of `images` if they are normalized.

        A key `rng` switches dropout on. `sample_mask`, 1 for images and 0 for padding, switches
        BatchNorm to the statistics of these images. In evaluation both are None.
        """
        ...

    def intermediates(self, images: Float[Array, "n h w c"]) -> dict[str, Array]:
        """Return the outputs of the network's parts by name, for normalized images, in evaluation.

        They serve diagnostics and comparisons. In a jitted program unused ones cost nothing.
        """
        ...
