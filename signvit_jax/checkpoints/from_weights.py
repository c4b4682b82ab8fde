"""Create a workdir from converted weights.

It has one checkpoint, of step 0, with parameters and without optimizer state or data position.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from signvit_jax.checkpoints.data_folder import with_absolute_data_dir
from signvit_jax.checkpoints.store import CheckpointStore
from signvit_jax.checkpoints.workdir import Workdir, WorkdirError
from signvit_jax.checkpoints.workdir_lock import lock_workdir
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, to_json
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.text.model_vocabularies import Vocabularies
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.weights.whole_model import parameters_from, vocabulary_sizes


def write_converted(
    path: Path,
    config: Config,
    tokenizer: Tokenizer,
    glosses: Tokenizer | None,
    tensors: Mapping[str, np.ndarray],
) -> int:
    """Create the workdir at `path` and return its number of parameters.

    Raises WeightsError or ConfigError if weights, vocabulary and config do not fit each other, and
    WorkdirError if the folder already has checkpoints.
    """
    num_words, num_labels = vocabulary_sizes(tensors)
    for kind, size, vocabulary in (
        ("words", num_words, tokenizer),
        ("CTC labels", num_labels, glosses or tokenizer),
    ):
        if size != vocabulary.vocab_size:
            raise ConfigError(
                f"the weights have {size} {kind}, the vocabulary has {vocabulary.vocab_size}; "
                "give the one that they were trained with"
            )
    definition = ModelDefinition(config, *Vocabularies(tokenizer, glosses).sizes)
    params = jax.tree.map(jnp.asarray, parameters_from(tensors, definition.abstract_params()))
    workdir = Workdir.create(path)
    with lock_workdir(workdir):
        if any(workdir.checkpoints.iterdir()):
            raise WorkdirError(f"--workdir={path} has checkpoints already; give another")
        workdir.write_text(workdir.config_json, to_json(with_absolute_data_dir(config)))
        workdir.write_text(workdir.tokenizer_json, tokenizer.to_json())
        if glosses:
            workdir.write_text(workdir.gloss_tokenizer_json, glosses.to_json())
        with contextlib.closing(CheckpointStore(workdir.checkpoints)) as store:
            store.save(0, params, None, {"step": 0, "converted": True}, wait=True)
    return sum(leaf.size for leaf in jax.tree.leaves(params))
