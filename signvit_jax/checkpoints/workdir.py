"""The folder of one run and the names of its files."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.atomic import write_atomically
from signvit_jax.files.local_paths import ALLOWED, is_address
from signvit_jax.text.tokenizer import Tokenizer, TokenizerError

_ADVICE = "give the folder that `signvit train` wrote to"


class WorkdirError(SignVitError):
    """A path that is not a workdir, cannot become one or is in use; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of a run's files. A trainer calls `create`, a reader `open`."""

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike) -> Self:
        """Return the workdir at `path`, created if it does not exist. Raises WorkdirError."""
        _check_local(path)
        workdir = cls(Path(path).absolute())
        try:
            for folder in (workdir.path, workdir.checkpoints, workdir.samples):
                folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise WorkdirError(
                f"--workdir={path}: {error.filename} is a file; a workdir is a folder, give "
                "another path"
            ) from error
        except OSError as error:
            raise WorkdirError(
                f"--workdir={path} cannot be created: {error.strerror}; give a folder that you may "
                "write to"
            ) from error
        return workdir

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Return the workdir of an earlier run. Raises WorkdirError if `path` is not a workdir."""
        _check_local(path)
        workdir = cls(Path(path).absolute())
        if not workdir.path.exists():
            raise WorkdirError(f"--workdir={path} does not exist; {_ADVICE}")
        if not workdir.path.is_dir():
            raise WorkdirError(f"--workdir={path} is a file; {_ADVICE}")
        if not workdir.config_json.is_file():
            near = [
                str(candidate)
                for candidate in (workdir.path.parent, *sorted(workdir.path.iterdir())[:1000])
                if cls(candidate).config_json.is_file()
            ]
            hint = f"did you mean {', '.join(near[:3])}?" if near else _ADVICE
            raise WorkdirError(f"--workdir={path} is not a workdir: it has no config.json; {hint}")
        return workdir

    config_json = property(lambda self: self.path / "config.json")
    tokenizer_json = property(lambda self: self.path / "tokenizer.json")
    gloss_tokenizer_json = property(lambda self: self.path / "gloss_tokenizer.json")
    calibration_json = property(lambda self: self.path / "calibration.json")
    checkpoints = property(lambda self: self.path / "checkpoints")
    metrics_csv = property(lambda self: self.path / "metrics.csv")
    metrics_png = property(lambda self: self.path / "metrics.png")
    # TensorBoard's events.* are directly in the workdir, so that --logdir takes it or its parent.
    events = property(lambda self: self.path)
    samples = property(lambda self: self.path / "samples")
    evaluations = property(lambda self: self.path / "eval")
    profile = property(lambda self: self.path / "profile")
    run_log = property(lambda self: self.path / "run.log")
    # The data set and the teacher that the run began with.
    origin_json = property(lambda self: self.path / "origin.json")
    # The same, in workdirs of release 0.1.
    fingerprint_txt = property(lambda self: self.path / "training_split.txt")
    lock_file = property(lambda self: self.path / ".lock")

    def write_text(self, path: Path, text: str) -> None:
        """Write one of the files above completely or not at all. Raises WorkdirError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        except OSError as error:
            raise WorkdirError(f"{path} could not be written: {error.strerror}") from error

    def read_config(self) -> Config:
        """Return the run's config. Raises ConfigError or WorkdirError with the file's path."""
        return _parsed(self.config_json, from_json)

    def read_tokenizer(self, path: Path) -> Tokenizer:
        """Return a vocabulary. Raises TokenizerError or WorkdirError with the file's path."""
        return _parsed(path, Tokenizer.from_json)


def _check_local(path: str | os.PathLike) -> None:
    if is_address(path):
        raise WorkdirError(f"--workdir={path} is an address; allowed: {ALLOWED}")


def _parsed[Read](path: Path, parse: Callable[[str], Read]) -> Read:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ConfigError, TokenizerError) as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise WorkdirError(
            f"{path} cannot be read: {error.strerror}; put back a copy of the file"
        ) from error
    except UnicodeDecodeError as error:
        raise WorkdirError(
            f"{path} is damaged: byte {error.start} is not UTF-8; put back a copy of the file"
        ) from error
