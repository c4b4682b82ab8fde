"""The results file of an evaluation: the scores of each decoder and every prediction, as JSON."""

import dataclasses
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from signvit_jax.errors.base import SignVitError
from signvit_jax.evaluation.confidence_reliability import DecoderConfidence
from signvit_jax.evaluation.metrics import Scores
from signvit_jax.files.atomic import write_atomically
from signvit_jax.files.parsed_json import ParsedJson
from signvit_jax.runtime.exit_codes import FAILED

_OWN_KEYS = ("id", "reference", "score")


class ResultsError(SignVitError, ValueError):
    """A results file that cannot be read or written; the message gives the reason."""


class ResultsLost(ResultsError):
    """Results that could not be saved because of the machine, such as a full disk."""

    exit_code = FAILED


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The raw reference of one clip and the text of each decoder."""

    id: str
    reference: str
    hypotheses: Mapping[str, str]  # decoder -> text
    score: float | None = None  # of the main decoder, a log-probability
    # More keys of the clip, such as gloss or num_frames.
    details: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Results:
    """All that `signvit eval` writes and the report reads.

    gloss_decoders: those that spell glosses; their references are the `gloss` details of the clips.
    unknown: tokens of the references that the vocabulary lacks, with their counts.
    phoenix_gloss_wer: by decoder, of `gloss_decoders`; empty if it was not requested.
    confidence: by decoder.
    """

    split: str
    dataset: str
    checkpoint_step: int
    decoders: Mapping[str, Scores]
    predictions: tuple[Prediction, ...]
    gloss_decoders: tuple[str, ...] = ()
    unknown: Mapping[str, int] = dataclasses.field(default_factory=dict)
    phoenix_gloss_wer: Mapping[str, float] = dataclasses.field(default_factory=dict)
    confidence: Mapping[str, DecoderConfidence] = dataclasses.field(default_factory=dict)

    def references(self, decoder: str) -> list[str | None]:
        """Return the decoder's references in the order of the predictions; None without a gloss."""
        if decoder not in self.gloss_decoders:
            return [prediction.reference for prediction in self.predictions]
        glosses = [prediction.details.get("gloss") for prediction in self.predictions]
        return [str(gloss) if gloss else None for gloss in glosses]


def to_json(results: Results) -> str:
    """Return one JSON object:

    "split", "dataset", "checkpoint_step";
    "decoders": {name: {"scores", "unit", "signature", "chrf_signature", "confidence"}};
    "gloss_decoders": [name]; "unknown": {token: count}; "phoenix_gloss_wer": {name: rate};
    "predictions": [{"id", "reference", one key per decoder, "score", one key per detail}].

    "confidence" is {"fitted_on", "sentence", "word"}; the last two have the fields of a
    `Reliability`. NaN and infinity become null. Raises ResultsError for a decoder or a detail with
    the name of another key.
    """
    decoders = {
        name: {
            "scores": scores.as_dict(),
            "unit": scores.unit,
            "signature": scores.signature,
            "chrf_signature": scores.chrf_signature,
        }
        for name, scores in results.decoders.items()
    }
    for name, confidence in results.confidence.items():
        decoders[name]["confidence"] = dataclasses.asdict(confidence)
    values = {
        "split": results.split,
        "dataset": results.dataset,
        "checkpoint_step": results.checkpoint_step,
        "decoders": decoders,
        "gloss_decoders": list(results.gloss_decoders),
        "unknown": dict(results.unknown),
        "phoenix_gloss_wer": dict(results.phoenix_gloss_wer),
        "predictions": [_flat(prediction) for prediction in results.predictions],
    }
    return json.dumps(_finite(values), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Results:
    """Read the output of `to_json`, also of earlier releases. Raises ResultsError."""
    try:
        return _results(json.loads(text))
    except KeyError as error:
        raise ResultsError(
            f"not a results file of `signvit eval`: the key {error} is missing"
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ResultsError(f"not a results file of `signvit eval`: {error}") from error


def _results(values: ParsedJson) -> Results:
    gloss_decoders = tuple(values.get("gloss_decoders", ()))
    decoders = {
        name: Scores(
            **entry["scores"],
            unit=entry.get("unit") or _unit(entry["signature"], name in gloss_decoders),
            signature=entry["signature"],
            chrf_signature=entry.get("chrf_signature", ""),
        )
        for name, entry in values["decoders"].items()
    }
    return Results(
        predictions=tuple(_nested(entry, decoders) for entry in values["predictions"]),
        confidence={
            name: DecoderConfidence.from_dict(entry["confidence"])
            for name, entry in values["decoders"].items()
            if "confidence" in entry
        },
        split=values["split"],
        dataset=values["dataset"],
        checkpoint_step=values["checkpoint_step"],
        decoders=decoders,
        gloss_decoders=gloss_decoders,
        unknown=dict(values.get("unknown", {})),
        phoenix_gloss_wer=dict(values.get("phoenix_gloss_wer", {})),
    )


def check_writable(*paths: Path) -> None:
    """Create the folders and try to write each path, before hours of decoding.

    Raises ResultsError with the path that cannot be written.
    """
    for path in paths:
        probe = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            try:
                probe.touch()
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise ResultsError(
                f"{path} cannot be written ({error.strerror}); "
                "give --output=FILE.json in a folder that you may write to"
            ) from error


def write(results: Results, path: Path | str) -> None:
    """Write the file completely or not at all; folders are created.

    Raises ResultsError, and ResultsLost if the disk refuses the file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(results).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ResultsLost(f"{path} could not be written: {error.strerror}") from error


def read(path: Path | str) -> Results:
    """Read a results file. Raises ResultsError with the path."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}") from error


def _unit(signature: str, is_gloss: bool) -> str:
    """Return the unit that was counted, for a file of an earlier release that does not have it."""
    if is_gloss:
        return "gloss"
    return "character" if "tok:char" in signature.split("|") else "word"


def _flat(prediction: Prediction) -> dict[str, object]:
    parts = (
        {"id": prediction.id, "reference": prediction.reference},
        prediction.hypotheses,
        {"score": prediction.score},
        prediction.details,
    )
    flat: dict[str, object] = {}
    for part in parts:
        if duplicates := flat.keys() & part.keys():
            raise ResultsError(
                f"clip {prediction.id!r} has two values under "
                f"{', '.join(map(repr, sorted(duplicates)))}; rename the decoder or the detail"
            )
        flat.update(part)
    return flat


def _nested(entry: ParsedJson, decoders: Mapping[str, Scores]) -> Prediction:
    return Prediction(
        id=entry["id"],
        reference=entry["reference"],
        hypotheses={name: entry[name] for name in decoders},
        score=entry.get("score"),
        details={
            key: value
            for key, value in entry.items()
            if key not in _OWN_KEYS and key not in decoders
        },
    )


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
