"""What is compared: workdirs, exports and results files, on the same clips."""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json
from signvit_jax.errors.base import SignVitError
from signvit_jax.evaluation import results
from signvit_jax.evaluation.metrics import normalize_text
from signvit_jax.evaluation.results import Prediction, Results
from signvit_jax.telemetry.metrics_file import read_metrics

Series = dict[str, tuple[list[int], list[float]]]
_LISTED = 3  # ids that a message lists


class ComparisonError(SignVitError, ValueError):
    """Results that cannot be compared; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One system of a comparison.

    `config` and `metrics` are those of the run or export that was evaluated; None and {} if its
    folder is not known. `decoders` are those of the results.
    """

    name: str
    results: Results
    config: Config | None
    metrics: Series

    @property
    def decoders(self) -> list[str]:
        return list(self.results.decoders)


def read_sides(paths: Sequence[Path], split: str | None) -> list[Side]:
    """Read what is at the paths; names are as short as they can be and differ.

    `split`: of the workdirs and exports; None for the test split, or the only one that all of them
    were evaluated on. Raises ComparisonError, ResultsError and ConfigError.
    """
    folders = [path for path in paths if path.is_dir()]
    if folders and split is None:
        split = _common_split(folders)
    sides = []
    for path, name in zip(paths, short_names(paths)):
        # A results file is <workdir>/eval/<split>.json by default.
        file, folder = path, path.resolve().parent.parent
        if path.is_dir():
            file, folder = path / "eval" / f"{split}.json", path
            if not file.is_file():
                raise ComparisonError(_not_evaluated(path, split or "test"))
        elif not path.exists():
            raise ComparisonError(
                f"{path} does not exist; give a workdir, an export, or a results file of "
                "`signvit eval`"
            )
        config_json = folder / "config.json"
        try:
            config = None
            if config_json.is_file():
                config = from_json(config_json.read_text(encoding="utf-8"))
        except (ConfigError, OSError, UnicodeDecodeError):
            # A results file may lie in any folder, beside any config.json.
            if path.is_dir():
                raise
            config = None
        metrics = read_metrics(folder / "metrics.csv") if config is not None else {}
        sides.append(Side(name, results.read(file), config, metrics))
    return on_same_clips(sides)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of paths, of as few parts as tell them apart; numbered where they are equal."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    names = [parts_of_path[-1] for parts_of_path in parts]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(parts_of_path[-count:]) for parts_of_path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def on_same_clips(sides: Sequence[Side]) -> list[Side]:
    """Return the sides with their clips in the order of the first one.

    Raises ComparisonError if they are not the same clips with the same references.
    """
    first, *others = sides
    expected = _by_key(first.results.predictions)
    aligned = [first]
    for side in others:
        by_key = _by_key(side.results.predictions)
        if by_key.keys() != expected.keys():
            shared = len(by_key.keys() & expected.keys())
            raise ComparisonError(
                f"{first.name} has {len(expected):,} clips and {side.name} {len(by_key):,}, of "
                f"which {shared:,} are shared; a comparison needs the same clips: evaluate both on "
                f"one split of one data set ({first.name}: {_dataset_and_split(first)}; "
                f"{side.name}: {_dataset_and_split(side)})"
            )
        different = [
            key[0]
            for key, prediction in expected.items()
            if normalize_text(prediction.reference, False)
            != normalize_text(by_key[key].reference, False)
        ]
        if different:
            raise ComparisonError(
                f"{first.name} and {side.name} have different references for {len(different):,} "
                f"of {len(expected):,} clips of the same names ({', '.join(different[:_LISTED])}); "
                "evaluate both on one data set"
            )
        predictions = tuple(by_key[key] for key in expected)
        aligned.append(
            dataclasses.replace(
                side, results=dataclasses.replace(side.results, predictions=predictions)
            )
        )
    return aligned


def common_decoders(sides: Sequence[Side], wanted: Sequence[str] | None) -> list[str]:
    """Return the decoders that all sides have, or those `wanted`. Raises ComparisonError."""
    shared = [name for name in sides[0].decoders if all(name in s.decoders for s in sides)]
    listed = "; ".join(f"{side.name} has {', '.join(side.decoders)}" for side in sides)
    missing = [name for name in wanted or () if name not in shared]
    if missing or not shared:
        what = "no decoder is in all results"
        if missing:
            what = f"decoder {missing[0]!r} is not in all results"
        raise ComparisonError(f"{what}: {listed}; evaluate with the same --decode")
    # Decoders that spell glosses in all results, or text in all results.
    comparable = [
        name for name in shared if len({name in side.results.gloss_decoders for side in sides}) == 1
    ]
    chosen = [name for name in (wanted or comparable) if name in comparable]
    if len(chosen) < len(wanted or chosen) or not chosen:
        raise ComparisonError(
            f"decoder {shared[0]!r} spells glosses in some results and text in others: {listed}"
        )
    return chosen


def _common_split(folders: Sequence[Path]) -> str:
    splits = [
        {file.stem for file in (folder / "eval").glob("*.json")} if folder.is_dir() else set()
        for folder in folders
    ]
    for folder, splits_of_folder in zip(folders, splits):
        if not splits_of_folder:
            raise ComparisonError(_not_evaluated(folder, "test"))
    shared = set.intersection(*splits)
    if "test" in shared:
        return "test"
    if len(shared) == 1:
        return shared.pop()
    listed = "; ".join(
        f"{folder}: {', '.join(sorted(names))}" for folder, names in zip(folders, splits)
    )
    raise ComparisonError(f"--split is not given; evaluated are {listed}")


def _not_evaluated(folder: Path, split: str) -> str:
    return (
        f"{folder} has no results of {split} ({folder / 'eval' / f'{split}.json'}); "
        f"first: signvit eval --workdir={folder} --split={split}"
    )


def _dataset_and_split(side: Side) -> str:
    return f"{side.results.dataset} {side.results.split}"


def _by_key(predictions: Sequence[Prediction]) -> dict[tuple[str, int], Prediction]:
    """Predictions by id, and by number among those of the same id."""
    counts: collections.Counter[str] = collections.Counter()
    by_key: dict[tuple[str, int], Prediction] = {}
    for prediction in predictions:
        by_key[prediction.id, counts[prediction.id]] = prediction
        counts[prediction.id] += 1
    return by_key
