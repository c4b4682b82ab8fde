"""A model that a workdir holds, ready for evaluation or translation: nothing but JSON and parameters is read, no config file is run."""

import dataclasses
import os

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from signvit_jax.config import Config, ConfigError, MeshConfig, from_json, from_mapping
from signvit_jax.data.tokenizer import Tokenizer
from signvit_jax.decoding.decoders import DECODERS
from signvit_jax.evaluation.evaluator import Predictor
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import state_shardings
from signvit_jax.training.best import best_rule
from signvit_jax.training.checkpoint import CheckpointReader
from signvit_jax.training.train_state import ModelDefinition
from signvit_jax.training.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    workdir: Workdir
    config: Config
    tokenizer: Tokenizer
    gloss_tokenizer: Tokenizer | None
    definition: ModelDefinition
    mesh: Mesh
    params: PyTree
    step: int  # of the checkpoint that the parameters are from

    @property
    def ctc_tokenizer(self) -> Tokenizer:
        return self.gloss_tokenizer or self.tokenizer

    def predictor(self, decoders: list[str], **inference: object) -> Predictor:
        """Compiled decoders with the config's inference values, those given replaced.

        Raises ConfigError for a decoder that there is not and for values that the config refuses.
        """
        if unknown := [name for name in decoders if name not in DECODERS]:
            raise ConfigError(f"decode is {unknown[0]!r}; allowed: {', '.join(DECODERS)}")
        values = dataclasses.asdict(self.config)
        config = from_mapping(values | {"inference": values["inference"] | inference}).inference
        return Predictor(self.definition.bind, self.tokenizer, self.ctc_tokenizer, config, self.mesh, decoders)


def load_trained(path: str | os.PathLike, checkpoint: str = "best") -> TrainedModel:
    """The `checkpoint` ("best" or "last") of a workdir, averaged weights where the run kept them, on all devices of this process.

    Raises WorkdirError for a path that is no workdir, and the checkpoint's errors for weights that cannot be read.
    """
    workdir = Workdir.open(path)
    config = from_json(workdir.config_json.read_text(encoding="utf-8"))
    if jax.default_backend() == "cpu":  # bfloat16 saves nothing there: one row of the output matrix takes many times as long as in float32
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, use_amp=False))
    tokenizer = Tokenizer.from_json(workdir.tokenizer_json.read_text(encoding="utf-8"))
    gloss_tokenizer = None
    if config.model.ctc.target == "gloss":
        gloss_tokenizer = Tokenizer.from_json(workdir.gloss_tokenizer_json.read_text(encoding="utf-8"))
    definition = ModelDefinition(config, tokenizer.vocab_size, gloss_tokenizer.vocab_size if gloss_tokenizer else 0)
    # Inference is data parallel, on however many devices there are: the training mesh may not exist here.
    mesh = make_mesh(MeshConfig())
    abstract = definition.abstract_params()
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, state_shardings(abstract, mesh)
    )
    reader = CheckpointReader(workdir.checkpoints, **best_rule(config.training.best_metric))
    restored = reader.restore_params(checkpoint, target)
    return TrainedModel(workdir, config, tokenizer, gloss_tokenizer, definition, mesh, restored.params, restored.step)
