"""Build a data set: signvit build NAME --data_dir=D [options]

`NAME --help` lists the options of a builder. The data set appears in D/NAME/VERSION complete or not
at all. An interrupted build resumes after its last finished shard.

Exit codes: 0 built, or there already; 1 failed; 2 wrong usage; 3 built, but some clips could not be
read; 4 no readable media; 130, 143 on signals.
"""

import argparse
import fcntl
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from signvit_jax.errors.base import SignVitError
from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.files.local_paths import local_path, local_path_string
from signvit_jax.runtime import completion
from signvit_jax.runtime.command_line import FlagParser, program_name
from signvit_jax.runtime.exit_codes import (
    DONE,
    FAILED,
    INTERRUPTED,
    SOME_INPUTS_FAILED,
    TERMINATED,
    UsageError,
    run_command,
)
from signvit_jax.runtime.standard_streams import clean

if TYPE_CHECKING:
    from tfds_builders.base import SignDatasetBuilder
    from tfds_builders.clips import Clip
    from tfds_builders.options import Range

FEW_CLIPS = 8  # for at most this many clips the disk space is not checked
SIZE_MARGIN = 1.1
SHARDS = "shards"  # folder in the staging folder that survives a kill


class BuildFailed(SignVitError):
    """The machine does not allow the build."""

    exit_code = FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _end_on_sigterm)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        print(
            "error: interrupted; no data set was changed, and the same command resumes after the "
            "last finished shard",
            file=sys.stderr,
        )
        return INTERRUPTED


def run(arguments: list[str]) -> int:
    """Build the data set of a command line; return the exit code. Raises SignVitError."""
    builder_class = find_builder(arguments[0] if arguments else "")
    flags = parse_options(builder_class, arguments[1:])
    data_dir = Path(flags.data_dir)
    final = data_dir / builder_class.name / str(builder_class.VERSION)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--data_dir={data_dir} cannot be written: {error.strerror}") from error
    try:
        with _staging_folder(final, data_dir / f".building_{builder_class.name}") as staging:
            return _build(builder_class, flags, final, staging)
    except BrokenProcessPool as error:
        raise BuildFailed(
            "a worker process was killed, most likely out of memory; nothing was changed; "
            "--workers=1 needs less"
        ) from error
    except OSError as error:
        raise BuildFailed(f"{error}; nothing was changed") from error


def _build(
    builder_class: type["SignDatasetBuilder"], flags: argparse.Namespace, final: Path, staging: Path
) -> int:
    import tensorflow_datasets as tfds

    from tfds_builders.base import REPORT_NAME, first_problems

    with progress_bar("building") as progress:
        builder = make_builder(
            builder_class, flags, staging, resume_dir=staging / SHARDS, on_progress=progress
        )
        splits = builder.plan()
        if final.exists() and not flags.overwrite:
            return _report_existing(final, builder, builder.fingerprint(splits))
        printed = list(builder.warnings)  # now, not after hours of decoding
        for warning in printed:
            print(f"note: {warning}", file=sys.stderr)
        _check_disk_space(builder, [clip for clips in splits.values() for clip in clips], staging)
        with redirect_stdout(io.StringIO()):  # TFDS would print the staging folder
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    _put_in_place(Path(builder.data_dir), final, staging)
    report = json.loads((final / REPORT_NAME).read_text(encoding="utf-8"))
    for warning in report["warnings"]:
        if warning not in printed:
            print(clean(f"note: {warning}", keep="\n"), file=sys.stderr)
    print(f"{builder.name}: {_counts(report['splits'])} in {clean(str(final))}")
    if builder.problems:
        problems = (
            f"{len(builder.problems)} clips could not be read, see {final / REPORT_NAME}:"
            f"{first_problems(builder.problems)}"
        )
        print(clean(problems, keep="\n"), file=sys.stderr)
        return SOME_INPUTS_FAILED
    return DONE


def make_builder(
    builder_class: type["SignDatasetBuilder"],
    flags: argparse.Namespace,
    folder: Path,
    resume_dir: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "SignDatasetBuilder":
    """Return the builder of a command line, which writes into `folder`. Raises BuildError."""
    return builder_class(
        data_dir=folder,
        options={option.name: getattr(flags, option.name) for option in builder_class.OPTIONS},
        short_side=flags.short_side,
        frame_rate=flags.frame_rate,
        jpeg_quality=flags.jpeg_quality,
        keypoints=flags.keypoints,
        keypoint_models=flags.keypoint_models,
        keypoint_files=flags.keypoint_files,
        val_fraction=flags.val_fraction,
        test_fraction=flags.test_fraction,
        workers=flags.workers,
        shard_megabytes=flags.shard_megabytes,
        beam_runner=flags.beam_runner,
        resume_dir=resume_dir,
        on_progress=on_progress,
    )


def builder_names() -> list[str]:
    """The data sets that can be built: the names of their folders."""
    return sorted(
        path.parent.name
        for path in Path(__file__).parent.glob("*/*_dataset_builder.py")
        if path.stem == f"{path.parent.name}_dataset_builder"
    )


def find_builder(name: str) -> type["SignDatasetBuilder"]:
    """Return the builder by the name of its folder. Raises UsageError."""
    known = builder_names()
    if name in ("-h", "--help"):
        print(f"{__doc__}\nData sets: {', '.join(known)}")
        raise SystemExit(DONE)
    if not name and completion.is_asked():
        parser = argparse.ArgumentParser()
        parser.add_argument("name", choices=known)
        completion.complete(parser, first=2)
    if name not in known:
        raise UsageError(
            f"no data set {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}\n"
            f"usage: {program_name()} NAME --data_dir=D [options]"
        )
    return importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder").Builder


class _Parser(FlagParser):
    """A parser that raises UsageError where argparse prints the usage and exits."""

    num_command_words = 3  # `signvit build NAME`

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): (?=is )", r"\1 ", message.removesuffix("."))
        raise UsageError(f"{message}\n`{self.prog} --help` lists the options")


def parse_options(
    builder_class: type["SignDatasetBuilder"],
    arguments: list[str],
    parser: argparse.ArgumentParser | None = None,
) -> argparse.Namespace:
    """Parse the options. Raises UsageError with each wrong one and what is allowed.

    `parser`: by default that of `signvit build NAME`.
    """
    from tfds_builders.options import allowed_by_option, option_fault

    parser = parser or option_parser(builder_class, f"{program_name()} {builder_class.name}")
    flags = parser.parse_args(arguments)
    allowed = allowed_by_option(builder_class.OPTIONS)
    given = ((name, value) for name, value in vars(flags).items() if value is not None)
    if faults := [
        fault for name, value in given if (fault := option_fault(name, value, allowed.get(name)))
    ]:
        parser.error("\n".join(faults))
    return flags


def _number(
    kind: type[int] | type[float], allowed: "Range | Sequence[str] | None"
) -> Callable[[str], float]:
    """Return an argparse type whose errors have the words of `option_fault`."""

    def read(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"is {text!r}; allowed: {allowed or 'a number'}"
            ) from None

    return read


def option_parser(
    builder_class: type["SignDatasetBuilder"], program: str, complete: bool = True
) -> argparse.ArgumentParser:
    """Return the parser of the options of a builder; it raises UsageError.

    `program`: its name in the help. With `complete`, the options that a build needs are required.
    """
    from tfds_builders.options import SHARED_OPTIONS

    parser = _Parser(
        program,
        allow_abbrev=False,
        epilog=builder_class.EXAMPLES and f"examples:{builder_class.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data_dir",
        required=complete,
        default=None if complete else Path("data"),
        type=local_path_string,
        help="folder of the data sets; this one is built in DATA_DIR/NAME/VERSION",
    )
    one_of = None
    if builder_class.ONE_OF:
        one_of = parser.add_mutually_exclusive_group(required=complete)
    for option in (*builder_class.OPTIONS, *SHARED_OPTIONS):
        has_none = option.type is Path and option.default is None and not option.optional
        required = complete and has_none
        if option.type is Path:
            kind = local_path
        elif option.type in (int, float):
            kind = _number(option.type, option.allowed)
        else:
            kind = option.type
        group = one_of if one_of and option.name in builder_class.ONE_OF else parser
        group.add_argument(
            f"--{option.name}",
            type=kind,
            default=option.default,
            required=required,
            help=option.help_with_default,
        )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a data set that was built with other options or from other files",
    )
    return parser


def _report_existing(final: Path, builder: "SignDatasetBuilder", fingerprint: str) -> int:
    """Return 0 if the existing data set is the requested one. Raises UsageError."""
    from tfds_builders.base import REPORT_NAME
    from tfds_builders.keypoints import NONE

    try:
        report = json.loads((final / REPORT_NAME).read_text(encoding="utf-8"))
        settings = report["settings"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{final} is there but has no readable {REPORT_NAME}; --overwrite replaces it"
        ) from error
    # A report of an earlier release lacks newer options: that release did what their defaults do.
    defaults = {option.name: option.default for option in builder.OPTIONS} | {"keypoints": NONE}
    settings = defaults | settings
    wanted = defaults | builder.settings()
    changed = [
        f"{key} was {settings.get(key)!r}, now {wanted.get(key)!r}"
        for key in sorted(settings.keys() | wanted.keys())
        if settings.get(key) != wanted.get(key)
    ]
    if not changed and report["fingerprint"] != fingerprint:
        changed = ["the annotations or the video files have changed"]
        changed += [
            f"{name} was {old}, now {new}"
            for name, new in builder.sources().items()
            if (old := report["sources"].get(name)) != new
        ]
    if changed:
        raise UsageError(
            f"{final} was built differently: {'; '.join(changed)}. "
            "--overwrite rebuilds it, another --data_dir keeps both"
        )
    failed = ""
    if report["failed"]:
        count = len(report["failed"])
        failed = f" ({count} clips could not be read then, see {final / REPORT_NAME})"
    message = (
        f"{builder.name} is already built with these options: {_counts(report['splits'])} "
        f"in {final}{failed}; --overwrite rebuilds it"
    )
    print(clean(message))
    return DONE


def _counts(splits: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{name} {split['clips']} clips" for name, split in splits.items())


def _check_disk_space(builder: "SignDatasetBuilder", clips: "list[Clip]", folder: Path) -> None:
    """Compare the free disk space with an estimate for all clips. Raises BuildFailed.

    The estimate encodes a few of them.
    """
    from tfds_builders.base import mean_clip_bytes

    needed = 0.0
    if len(clips) > FEW_CLIPS:
        needed = mean_clip_bytes(clips, builder.encoding) * len(clips) * SIZE_MARGIN
    # Finished shards of an interrupted build.
    needed -= sum(file.stat().st_size for file in folder.glob("**/*.shard"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        gigabytes = f"about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        raise BuildFailed(
            f"{gigabytes} on the disk of {folder.parent}; "
            "free some, or lower --short_side, --frame_rate or --jpeg_quality; nothing was changed"
        )


@contextmanager
def _staging_folder(final: Path, staging: Path) -> Iterator[Path]:
    """Lock the data set and yield the folder to build in. Raises UsageError if it is locked.

    Of an interrupted build only finished shards stay in the folder.
    """
    lock = os.open(final.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is building {final} at this moment") from None
        replaced = staging / "replaced"
        if replaced.exists() and not final.exists():
            # A build was killed between the two renames of `_put_in_place`.
            os.rename(replaced, final)
        _clear(staging)
        staging.mkdir(exist_ok=True)
        try:
            yield staging
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            _clear(staging)
    finally:
        os.close(lock)
        with suppress(OSError):
            final.parent.rmdir()  # it is empty if nothing was built


def _clear(staging: Path) -> None:
    """Remove all but finished shards; without any, the folder as well."""
    shards = staging / SHARDS
    finished = any(shards.glob("*.*.json"))
    for left in staging.iterdir() if staging.exists() else ():
        if left != shards or not finished:
            shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):
        staging.rmdir()


def _put_in_place(built: Path, final: Path, staging: Path) -> None:
    if final.exists():
        os.rename(final, staging / "replaced")
    os.rename(built, final)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with clips/s and the remaining time; yield the function that updates it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from signvit_jax.runtime.terminal import FittingProgress

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with FittingProgress(*columns, console=Console(stderr=True), transient=False) as progress:
        task = progress.add_task("", total=None, start=False, visible=False, rate="")

        def update(done: int, total: int) -> None:
            if not progress.tasks[0].started:
                progress.start_task(task)
            speed = progress.tasks[0].speed
            progress.update(
                task,
                completed=done,
                total=total,
                visible=True,
                rate=f"{speed:.1f} clips/s" if speed else "",
            )

        yield update


def _end_on_sigterm(signum: int, frame: object) -> None:
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    sys.exit(run_command(main))
