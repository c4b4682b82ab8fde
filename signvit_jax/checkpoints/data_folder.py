"""Where the data set of a run is: written down when training starts, found again when the run is read.

`config.json` keeps `data.data_dir` as an absolute path. Those of earlier releases kept it as it was
typed, and whole projects are moved, so it is also looked for beside the workdir and above it.
"""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.schema import Config, from_json
from signvit_jax.data.dataset import DatasetError, SignDataset, open_dataset

_logger = logging.getLogger(__name__)

_LEVELS = 4  # folders above the workdir in which the data set is looked for


def with_absolute_data_dir(config: Config) -> Config:
    """The config with a `data.data_dir` that means the same from every folder."""
    return _with_data(config, data_dir=str(Path(config.data.data_dir).expanduser().absolute()))


def located(config: Config, workdir: Workdir) -> Config:
    """The config with the `data.data_dir` at which the run's data set is, as it was where it is nowhere."""
    first, *others = _candidates(config, workdir)
    for folder in (first, *others):
        if (folder / config.data.name).is_dir():
            if folder != first:
                _logger.warning(
                    "the data set %r is not under %s; the one under %s is read",
                    config.data.name,
                    first,
                    folder,
                )
            return _with_data(config, data_dir=str(folder))
    return config


def of_run(
    config: Config, workdir: Workdir, data_dir: str | None = None, name: str | None = None
) -> Config:
    """The config with the data set that an evaluation reads: that of the run, or what is given in its place."""
    if data_dir is not None:
        config = _with_data(config, data_dir=data_dir)
    if name is not None:
        config = _with_data(config, name=name)
    return config if data_dir is not None else located(config, workdir)


def open_data_of_run(config: Config, *, named: bool = False) -> SignDataset:
    """The data set of a config that `of_run` has made. `named`: its name was given, and is not that of the run.

    Raises DatasetError. Where the run's own is missing, it is not advised to build it: other clips under that name have scores that say
    nothing of this run.
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
        f"{missing}: the data set of this run is not there; give the folder that holds it with --data_dir=DIR"
    )


def check_data_of_resumed(config: Config, workdir: Workdir) -> None:
    """Raises DatasetError where a run goes on, and its data set is not where `config` says, with the place where it was so far."""
    given, name = Path(config.data.data_dir), config.data.name
    if (given / name).is_dir() or not workdir.config_json.is_file():
        return
    there = Path(
        located(from_json(workdir.config_json.read_text(encoding="utf-8")), workdir).data.data_dir
    )
    if (there / name).is_dir():
        raise DatasetError(
            f"no data set {name!r} under {str(given)!r}; this run was started on that under {there}: --config.data.data_dir={there}"
        )
    raise DatasetError(
        f"no data set {name!r} under {str(given)!r}, nor under {str(there)!r}, where this run was started; "
        "give the folder that holds it with --config.data.data_dir=DIR"
    )


def _candidates(config: Config, workdir: Workdir) -> Iterator[Path]:
    given = Path(config.data.data_dir).expanduser()
    yield given
    below = given.name if given.is_absolute() else given
    for folder in (workdir.path, *workdir.path.parents)[: _LEVELS + 1]:
        yield folder / below


def _with_data(config: Config, **values: str) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **values))
