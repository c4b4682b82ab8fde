"""The config that a run trains: the given one, with everything filled in that it leaves open."""

import dataclasses
import logging
from pathlib import Path

from signvit_jax.checkpoints.data_folder import check_data_of_resumed, with_absolute_data_dir
from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.checkpoints.workdir import Workdir, WorkdirError, check_resume
from signvit_jax.config.schema import (
    Config,
    with_ctc_target,
    with_init_from,
    with_norm_epsilon,
    with_teacher,
)
from signvit_jax.data.dataset import SignDataset, open_dataset
from signvit_jax.files.local_paths import is_hub_address
from signvit_jax.inference.loading import read_source
from signvit_jax.weights.pretrained import PretrainedBackbone, read_pretrained
from signvit_jax.weights.transfer import SourceModel

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ResolvedConfig:
    """The final config, and what was read to resolve it."""

    config: Config
    earlier: Config | None  # of the start before this one; None at a first start
    source: SourceModel | None  # the model that a fresh run starts from
    pretrained: PretrainedBackbone | None  # the weights that a fresh run starts from
    dataset: SignDataset


def resolve_config(config: Config, workdir: Workdir, teacher: str | None = None) -> ResolvedConfig:
    """Resolve the config of a run in `workdir`. Nothing changes the config after this.

    `teacher`: the teacher's workdir if the command line names one. Raises ConfigError for values
    that a resumed run must not change, and WorkdirError, WeightsError and DatasetError for what
    cannot be read.
    """
    if teacher is not None:
        config = with_teacher(config, teacher)
    config = with_absolute_data_dir(config)
    earlier = workdir.read_config() if workdir.config_json.is_file() else None
    config = inherit_resolved_values(config, earlier, workdir)
    check_data_of_resumed(config, workdir)
    source = _read_source(config, workdir)
    if source:  # an address of a hub is kept with its commit
        config = with_init_from(config, source.path)
    if source and not config.model.encoder.norm_epsilon:
        config = with_norm_epsilon(config, source.config.model.encoder.norm_epsilon)
    config, pretrained = resolve_norm_epsilon(config, workdir)
    dataset = open_dataset(config.data.data_dir, config.data.name)
    config = _resolve_ctc_target(config, dataset)
    return ResolvedConfig(config, earlier, source, pretrained, dataset)


def _read_source(config: Config, workdir: Workdir) -> SourceModel | None:
    """Read the model of `model.init_from`, at the first start of a run only. Raises ConfigError."""
    begun = CheckpointReader(workdir.checkpoints).latest_step() is not None
    if begun or not config.model.init_from:
        return None
    return read_source(config.model.init_from)


def inherit_resolved_values(config: Config, earlier: Config | None, workdir: Workdir) -> Config:
    """Return the config with the values that the run's first start resolved; log other changes.

    Raises ConfigError for a changed value that a resumed run must keep, and WorkdirError for a
    folder with checkpoints and no config.
    """
    if earlier is None:
        if any(workdir.checkpoints.iterdir()):
            raise WorkdirError(
                f"{workdir.path} has checkpoints but no config.json: not a workdir that this "
                "program left; give another --workdir"
            )
        return config
    if config.model.ctc.target == "auto":
        config = with_ctc_target(config, earlier.model.ctc.target)
    if config.model.encoder.norm_epsilon == 0.0:
        config = with_norm_epsilon(config, earlier.model.encoder.norm_epsilon)
    if _is_pinned_form(earlier.model.init_from, config.model.init_from):
        config = with_init_from(config, earlier.model.init_from)
    for key, before, now in check_resume(earlier, config):
        if key == "data.data_dir" and _is_relative_form(str(before), str(now)):
            continue
        _logger.warning("config.%s is now %r; it was %r", key, now, before)
    return config


def _is_pinned_form(before: str, now: str) -> bool:
    """Whether `before` is the hub's address `now` with the commit that the run started from."""
    return is_hub_address(now) and before.partition("@")[0] == now.partition("@")[0].rstrip("/")


def _is_relative_form(before: str, now: str) -> bool:
    """Return True if `before` is `now` as an earlier release stored it: as it was typed."""
    return not Path(before).is_absolute() and Path(now).match(before)


def resolve_norm_epsilon(
    config: Config, workdir: Workdir
) -> tuple[Config, PretrainedBackbone | None]:
    """Return the config with the epsilon of pretrained weights, and these weights.

    They are read at the first start of a run only. Raises WeightsError.
    """
    encoder = config.model.encoder
    if not encoder.pretrained or CheckpointReader(workdir.checkpoints).latest_step() is not None:
        return config, None
    pretrained = read_pretrained(encoder.pretrained)
    if not encoder.norm_epsilon:
        config = with_norm_epsilon(config, pretrained.epsilon)
    return config, pretrained


def _resolve_ctc_target(config: Config, dataset: SignDataset) -> Config:
    """Replace the target 'auto' by 'gloss' if the training split has glosses, else by 'text'."""
    if config.model.ctc.target != "auto":
        return config
    if any(entry.gloss for entry in dataset.split(config.data.train_split).index):
        _logger.info("CTC is trained on glosses")
        return with_ctc_target(config, "gloss")
    _logger.info("CTC is trained on text: the training split has no glosses")
    return with_ctc_target(config, "text")
