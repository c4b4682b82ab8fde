"""The folder of a run's data set: recorded when training starts, found again when the run is read.

`config.json` keeps `data.data_dir` as an absolute path. Earlier releases kept the path as typed,
and users move whole projects. So the data set is also looked for beside the workdir and above it.
"""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.schema import Config, from_json
from signvit_jax.data.dataset import DatasetError, SignDataset, open_dataset

log = logging.getLogger(__name__)

_PARENTS_SEARCHED = 4  # folders above the workdir in which the data set is looked for


def with_absolute_data_dir(config: Config) -> Config:
    """Return the config with `data.data_dir` as an absolute path."""
    return _with_data(config, data_dir=str(Path(config.data.data_dir).expanduser().absolute()))


def find_data_dir(config: Config, workdir: Workdir) -> Config:
    """Return the config with the `data.data_dir` that holds the run's data set.

    The config is returned unchanged if no folder holds it.
    """
    first, *others = _candidates(config, workdir)
    for folder in (first, *others):
        if (folder / config.data.name).is_dir():
            if folder != first:
                log.warning(
                    "the data set %r is not under %s; using the one under %s",
                    config.data.name,
                    first,
                    folder,
                )
            return _with_data(config, data_dir=str(folder))
    return config


def with_data_of_run(
    config: Config, workdir: Workdir, data_dir: str | None = None, name: str | None = None
) -> Config:
    """Return the config with the data set to evaluate on: the run's, or that of the arguments."""
    if data_dir is not None:
        config = _with_data(config, data_dir=data_dir)
    if name is not None:
        config = _with_data(config, name=name)
    return config if data_dir is not None else find_data_dir(config, workdir)


def open_data_of_run(config: Config, *, named: bool = False) -> SignDataset:
    """Open the data set of a config from `with_data_of_run`.

    `named`: the user gave another data set's name. Raises DatasetError. If the run's own data set
    is missing, the error does not advise building it: scores on other clips under the same name
    would say nothing about this run.
    """
    folder, name = Path(config.data.data_dir).expanduser(), config.data.name
    if named or (folder / name).is_dir():
        return open_dataset(config.data.data_dir, name)
    missing = (
        f"no data set {name!r} under {str(folder)!r}"
        if folder.is_dir()
        else f"no folder {str(folder)!r}"
    )
    raise DatasetError(
        f"{missing}: the data set of this run is not there; give the folder that holds it with "
        "--data_dir=DIR"
    )


def check_data_of_resumed(config: Config, workdir: Workdir) -> None:
    """Check that a resumed run's data set is where `config` says.

    Raises DatasetError, which reports the folder that the run has used so far.
    """
    configured, name = Path(config.data.data_dir), config.data.name
    if (configured / name).is_dir() or not workdir.config_json.is_file():
        return
    earlier = from_json(workdir.config_json.read_text(encoding="utf-8"))
    used = Path(find_data_dir(earlier, workdir).data.data_dir)
    if (used / name).is_dir():
        raise DatasetError(
            f"no data set {name!r} under {str(configured)!r}; this run was started on the one "
            f"under {used}: --config.data.data_dir={used}"
        )
    raise DatasetError(
        f"no data set {name!r} under {str(configured)!r}, nor under {str(used)!r}, where this run "
        "was started; give the folder that holds it with --config.data.data_dir=DIR"
    )


def _candidates(config: Config, workdir: Workdir) -> Iterator[Path]:
    """Yield folders that may hold the data set, the configured one first."""
    configured = Path(config.data.data_dir).expanduser()
    yield configured
    relative = configured.name if configured.is_absolute() else configured
    for folder in (workdir.path, *workdir.path.parents)[: _PARENTS_SEARCHED + 1]:
        yield folder / relative


def _with_data(config: Config, **values: str) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **values))
