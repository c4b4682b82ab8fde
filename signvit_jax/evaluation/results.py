"""The results file of an evaluation: scores of each decoder and every prediction, as JSON."""

import dataclasses
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from signvit_jax.evaluation.metrics import Scores
from signvit_jax.evaluation.reliability import DecoderConfidence
from signvit_jax.files.atomic import write_atomically

_OWN_KEYS = ("id", "reference", "score")


class ResultsError(ValueError):
    """A results file that cannot be read or written; the message says what is wrong with it."""

    exit_code = 2


class ResultsLost(ResultsError):
    """Results that were there and could not be kept, for reasons of the machine."""

    exit_code = 1


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One clip's raw reference and what each decoder made of it."""

    id: str
    reference: str
    hypotheses: Mapping[str, str]  # decoder -> text
    score: float | None = None  # log-probability as the main decoder gives it
    details: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # more keys of the clip, such as gloss or num_frames


@dataclasses.dataclass(frozen=True)
class Results:
    """What `signvit_jax.eval` writes and the report reads."""

    split: str
    dataset: str
    checkpoint_step: int
    decoders: Mapping[str, Scores]
    predictions: tuple[Prediction, ...]
    gloss_decoders: tuple[
        str, ...
    ] = ()  # those that spell glosses; they are scored against the clips' `gloss` detail
    unknown: Mapping[str, int] = dataclasses.field(
        default_factory=dict
    )  # of the references, not in the vocabulary: what and how often
    phoenix_gloss_wer: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # of the decoders that spell glosses, where asked for
    confidence: Mapping[str, DecoderConfidence] = dataclasses.field(
        default_factory=dict
    )  # by decoder

    def references(self, decoder: str) -> list[str | None]:
        """What the decoder's hypotheses are held against, in the order of the predictions; None where a clip has no gloss."""
        if decoder in self.gloss_decoders:
            return [
                str(gloss) if (gloss := prediction.details.get("gloss")) else None
                for prediction in self.predictions
            ]
        return [prediction.reference for prediction in self.predictions]


def to_json(results: Results) -> str:
    """`{"split", "dataset", "checkpoint_step", "decoders": {name: {"scores", "unit", "signature", "chrf_signature",
    "confidence"}}, "gloss_decoders": [...],
    "unknown": {...}, "phoenix_gloss_wer": {...}, "predictions": [{"id", "reference", <a key per decoder>, "score", ...}]}`.

    "confidence" is `{"fitted_on", "sentence", "word"}`, the last two the fields of a `Reliability`.

    Numbers that JSON has no name for become null. Raises ResultsError for a decoder named like another key.
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
    for name, found in results.confidence.items():
        decoders[name]["confidence"] = dataclasses.asdict(found)
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
    """Reads what `to_json` wrote. Raises ResultsError."""
    try:
        values = json.loads(text)
        glosses = tuple(values.get("gloss_decoders", ()))
        decoders = {
            name: Scores(
                **entry["scores"],
                unit=entry.get("unit") or _unit(entry["signature"], name in glosses),
                signature=entry["signature"],
                chrf_signature=entry.get("chrf_signature", ""),
            )
            for name, entry in values["decoders"].items()
        }
        predictions = tuple(_nested(entry, decoders) for entry in values["predictions"])
        sure = {
            name: DecoderConfidence.from_dict(entry["confidence"])
            for name, entry in values["decoders"].items()
            if "confidence" in entry
        }
        return Results(
            values["split"],
            values["dataset"],
            values["checkpoint_step"],
            decoders,
            predictions,
            glosses,
            dict(values.get("unknown", {})),
            dict(values.get("phoenix_gloss_wer", {})),
            sure,
        )
    except KeyError as error:
        raise ResultsError(
            f"not a results file of signvit_jax.eval: the key {error} is missing"
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ResultsError(f"not a results file of signvit_jax.eval: {error}") from error


def check_writable(*paths: Path) -> None:
    """Makes the folders and tries each path before hours of decoding. Raises ResultsError, naming the one that cannot be written."""
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
                f"{path} cannot be written ({error.strerror}); give --output=FILE.json in a folder that you may write to"
            ) from error


def write(results: Results, path: Path | str) -> None:
    """Writes the file whole or not at all; folders are made. Raises ResultsError, and ResultsLost where the disk refuses it."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(results).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ResultsLost(f"{path} could not be written: {error.strerror}") from error


def read(path: Path | str) -> Results:
    """Raises ResultsError naming the file."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}") from error


def _unit(signature: str, is_gloss: bool) -> str:
    """What was counted, of a file that does not say so."""
    return "gloss" if is_gloss else "character" if "tok:char" in signature.split("|") else "word"


def _flat(prediction: Prediction) -> dict[str, Any]:
    parts = (
        {"id": prediction.id, "reference": prediction.reference},
        prediction.hypotheses,
        {"score": prediction.score},
        prediction.details,
    )
    flat: dict[str, Any] = {}
    for part in parts:
        if taken := flat.keys() & part.keys():
            raise ResultsError(
                f"clip {prediction.id!r} has two values under {', '.join(map(repr, sorted(taken)))}; give the decoder or detail another name"
            )
        flat.update(part)
    return flat


def _nested(entry: Mapping[str, Any], decoders: Mapping[str, Scores]) -> Prediction:
    hypotheses = {name: entry[name] for name in decoders}
    details = {
        key: value for key, value in entry.items() if key not in _OWN_KEYS and key not in decoders
    }
    return Prediction(entry["id"], entry["reference"], hypotheses, entry.get("score"), details)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
