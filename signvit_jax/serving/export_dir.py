"""The folder of an export: what its files are called, and what `export.json` says of them."""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.local_paths import ALLOWED, is_address
from signvit_jax.runtime.exit_codes import USAGE

_logger = logging.getLogger(__name__)

FORMATS = ("int8", "stablehlo", "onnx", "safetensors")
QUANTIZATIONS = {  # what may be INT8 in each format; the first is the default
    "int8": ("weights", "weights_and_inputs"),
    "onnx": ("weights_and_inputs", "none"),
    "stablehlo": ("none",),
    "safetensors": ("none",),
}
_VERSION = 1


class ExportError(SignVitError):
    """An export that cannot be made or read; the message says what to do."""

    exit_code = USAGE


def resolve_quantization(export_format: str, asked: str | None) -> str:
    """What of an export of that format is INT8: what was asked for, or the format's default. Raises ExportError for what it cannot hold."""
    allowed = QUANTIZATIONS[export_format]
    if asked is not None and asked not in allowed:
        raise ExportError(
            f"--quantize={asked} is not possible with --format={export_format}; allowed: {', '.join(allowed)}"
        )
    return asked or allowed[0]


@dataclasses.dataclass(frozen=True)
class ExportManifest:
    """What an export is: one of FORMATS, what of it is INT8, and the step of the checkpoint that it was made of."""

    format: str
    quantize: str
    step: int


@dataclasses.dataclass(frozen=True)
class ExportFolder(Workdir):
    """As a workdir it holds `config.json` and the tokenizers; parameters and programs lie where a workdir has checkpoints."""

    export_json = property(lambda self: self.path / "export.json")
    weights = property(lambda self: self.path / "weights.safetensors")
    report_json = property(lambda self: self.path / "report.json")
    model_card = property(lambda self: self.path / "README.md")

    def program(self, name: str, kind: str) -> Path:
        return self.path / f"{name}.{kind}"

    @classmethod
    @contextlib.contextmanager
    def made(cls, path: str | os.PathLike) -> Iterator["ExportFolder"]:
        """A folder to write the export into, which becomes `path` when the context is left without an error.

        Raises ExportError for a path that something is at, that cannot be written, or that another export is being written to.
        """
        if is_address(path):
            raise ExportError(f"--output={path} is an address; allowed: {ALLOWED}")
        target = Path(path).absolute()
        unfinished = target.with_name(f"{target.name}.unfinished")
        try:
            with _locked(unfinished, path):
                try:
                    if target.exists() and (not target.is_dir() or any(target.iterdir())):
                        raise ExportError(
                            f"--output={path} is there already; give a new folder, an export is never written over something else"
                        )
                    _empty(unfinished)  # of an export that was killed
                    yield cls(unfinished)
                    unfinished.rename(target)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        except OSError as error:
            raise ExportError(
                f"--output={path} cannot be written: {error}; give a folder that you may write to, with room enough"
            ) from error

    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def write_contents(self, contents: ExportManifest) -> None:
        self.write_text(
            self.export_json,
            json.dumps({"version": _VERSION} | dataclasses.asdict(contents), indent=2) + "\n",
        )

    def contents(self) -> ExportManifest:
        """Raises ExportError for an `export.json` that this program did not write."""
        try:
            said = json.loads(self.export_json.read_text(encoding="utf-8"))
            found = ExportManifest(said["format"], said["quantize"], said["step"])
            is_step = type(found.step) is int and found.step >= 0
            known = (
                said["version"] == _VERSION
                and is_step
                and found.quantize in QUANTIZATIONS[found.format]
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ExportError(
                f"{self.export_json} cannot be read ({type(error).__name__}: {error}); export the model again"
            ) from error
        if not known:
            raise ExportError(
                f"{self.export_json} is of another version of this program, or was changed; export the model again"
            )
        return found


@contextlib.contextmanager
def _locked(folder: Path, asked: object) -> Iterator[None]:
    """Makes the folder and keeps every other export out of it. The kernel frees the lock when its holder ends, however it ends."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ExportError(
                    f"--output={asked} is being written by another export; wait for it, or give another folder"
                ) from error
            except OSError as error:
                _logger.warning(
                    "%s cannot be locked (%s): take care that no second export is written to it",
                    folder,
                    error.strerror,
                )
            if _is_at(descriptor, folder):
                yield
                return
        # Whoever held it has renamed or removed the folder in the meantime.


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def is_export(path: object) -> bool:
    """Whether this is the path of an export, and not of a workdir or of several."""
    return isinstance(path, str | os.PathLike) and ExportFolder(Path(path)).export_json.is_file()
