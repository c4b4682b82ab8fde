"""The config that a run trains: the given one, with everything filled in that it leaves open."""

import dataclasses
import logging
import re
from pathlib import Path

from signvit_jax.checkpoints.data_folder import check_data_of_resumed, with_absolute_data_dir
from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.checkpoints.resume_rules import check_resume
from signvit_jax.checkpoints.workdir import Workdir, WorkdirError
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

log = logging.getLogger(__name__)


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
    source = pretrained = None
    if CheckpointReader(workdir.checkpoints).latest_step() is None:
        source, pretrained = read_start(config)
    if source:
        config = with_init_from(config, source.path)  # a hub's address now with its commit
    config = resolve_norm_epsilon(config, source, pretrained)
    dataset = open_dataset(config.data.data_dir, config.data.name)
    config = _resolve_ctc_target(config, dataset)
    return ResolvedConfig(config, earlier, source, pretrained, dataset)


def read_start(config: Config) -> tuple[SourceModel | None, PretrainedBackbone | None]:
    """Read what a fresh run starts from: a model, a backbone, or nothing; never both.

    Raises ConfigError or the error of the reader for `model.init_from`, and WeightsError for
    `model.encoder.pretrained`.
    """
    init_from, pretrained = config.model.init_from, config.model.encoder.pretrained
    return (
        read_source(init_from) if init_from else None,
        read_pretrained(pretrained) if pretrained else None,
    )


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
        log.warning("config.%s is now %r; it was %r", key, now, before)
    return config


def _is_pinned_form(before: str, now: str) -> bool:
    """Return True if `before` is the hub's address `now`, with the commit that the run took.

    That commit may be the one that a branch or tag of `now` named then.
    """
    repository, _, revision = now.partition("@")
    is_commit = re.fullmatch("[0-9a-f]{40}", revision) is not None
    return (
        is_hub_address(now) and not is_commit and before.partition("@")[0] == repository.rstrip("/")
    )


def _is_relative_form(before: str, now: str) -> bool:
    """Return True if `before` is `now` as an earlier release stored it: as it was typed."""
    return not Path(before).is_absolute() and Path(now).match(before)


def resolve_norm_epsilon(
    config: Config, source: SourceModel | None, pretrained: PretrainedBackbone | None
) -> Config:
    """Replace an epsilon of 0 by that of the weights that the run starts from."""
    if config.model.encoder.norm_epsilon:
        return config
    if source:
        return with_norm_epsilon(config, source.config.model.encoder.norm_epsilon)
    if pretrained:
        return with_norm_epsilon(config, pretrained.epsilon)
    return config


def _resolve_ctc_target(config: Config, dataset: SignDataset) -> Config:
    """Replace the target 'auto' by 'gloss' if the training split has glosses, else by 'text'."""
    if config.model.ctc.target != "auto":
        return config
    if any(entry.gloss for entry in dataset.split(config.data.train_split).index):
        log.info("CTC is trained on glosses")
        return with_ctc_target(config, "gloss")
    log.info(
        "CTC is trained on text: the training split has no glosses%s",
        ", so the decoder has no gloss memory" if config.model.decoder.gloss_memory else "",
    )
    return with_ctc_target(config, "text")
