"""The model card of an export, in the form that model hubs read: a YAML head, then Markdown."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from signvit_jax.exporting.report import report_rows
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.serving.export_dir import ExportManifest

_UNKNOWN = "not stated by whoever exported it"
# Data set -> sign language, language of the texts, and the terms of its use.
_DATA_SETS = {
    "isign": (
        "Indian Sign Language",
        "English",
        "iSign is gated and under CC BY-NC-SA 4.0: not for trade",
    ),
    "include": ("Indian Sign Language", "English", "see the license on INCLUDE's home page"),
    "phoenix14t": (
        "German Sign Language (DGS)",
        "German",
        "PHOENIX-2014T is for research; see the license on its home page",
    ),
    "csl_daily": (
        "Chinese Sign Language (CSL)",
        "Chinese",
        "CSL-Daily is for research, under an agreement with its authors",
    ),
    "how2sign": (
        "American Sign Language (ASL)",
        "English",
        "How2Sign is under CC BY-NC 4.0: not for trade",
    ),
    "synthetic_signs": (
        "none: signs that a program draws",
        "English",
        "drawn by signvit_jax (Apache-2.0)",
    ),
}
_OPENED_BY = {
    "int8": "`load_translator(FOLDER)`, `python -m signvit_jax.translate --workdir=FOLDER clip.mp4`, `signvit_jax.eval`",
    "onnx": "`python -m signvit_jax.translate --workdir=FOLDER --backend=onnx clip.mp4`, `load_translator(FOLDER)`; its programs by onnxruntime",
    "stablehlo": "`load_translator(FOLDER)`; its programs alone through `jax.export.deserialize`",
    "safetensors": "`load_translator(FOLDER)`; `python -m signvit_jax.convert --weights=FOLDER/weights.safetensors --workdir=DIR` to train on",
}
_CARD = """\
---
{head}
---

# Sign-language translation: video to text

Trained with signvit_jax on `{dataset}` to step {step:,}; exported as {format}, INT8: {quantize}.
Backbone `{backbone}`, {parameters:,} parameters, {words:,} words or pieces.

| | |
|---|---|
| sign language | {signed} |
| text | {written} |
| license of this model | {license} |
| training data | `{dataset}`, split `{split}`; {terms} |
| input | RGB video, {clip}, {size} x {size} |
| opened by | {opened_by} |

## Scores, size and speed

{scores}

## Limits

- It knows the signs, signers, cameras and subjects of its training data. Other sign languages, dialects and camera angles are not translated, and
  it does not say so: it gives fluent text for anything, a video without a signer included. `min_confidence` helps, it does not settle it.
- Sign languages say much with the face, the mouth and the use of space; short clips of low resolution lose part of it.
- The scores above are of the data set's own held-out clips. Yours will be lower: measure with `python -m signvit_jax.eval` before you rely on it.

## What it must not be used for

- In place of an interpreter where someone's health, freedom, money or rights depend on what is said: medicine, police, courts, emergencies, exams.
- To watch people, to identify or to judge them (for work, credit, insurance, benefits), or on recordings of people who did not agree to it.
- As proof of what someone signed. Keep the video with the text, and say that the text was made by a machine.
"""


@dataclasses.dataclass(frozen=True)
class Described:
    """What only whoever exports can know; None: not said."""

    sign_language: str | None = None
    text_language: str | None = None
    license: str | None = None


def model_card(
    model: TrainedModel, contents: ExportManifest, report: Mapping[str, Any], described: Described
) -> str:
    """Markdown: what it is, data, languages, license, scores with their signature, limits, and what it must not be used for."""
    data = model.config.data
    signed, written, terms = _DATA_SETS.get(
        data.name.partition("/")[0], (_UNKNOWN, _UNKNOWN, f"terms: {_UNKNOWN}")
    )
    return _CARD.format(
        head="\n".join(_head(described, data.name)),
        dataset=data.name,
        step=contents.step,
        format=contents.format,
        quantize=contents.quantize.replace("_", " "),
        backbone=model.config.model.encoder.backbone,
        parameters=report["size"]["parameters"],
        words=model.tokenizer.vocab_size,
        signed=described.sign_language or signed,
        written=described.text_language or written,
        license=described.license or _UNKNOWN,
        split=data.train_split,
        terms=terms,
        clip=f"{data.frame_rate:g} frames a second, up to {data.num_frames}"
        if data.sampling == "rate"
        else f"{data.num_frames} frames a clip",
        size=data.image_size,
        opened_by=_OPENED_BY[contents.format],
        scores="\n".join(_scores(report)),
    )


def _head(described: Described, dataset: str) -> list[str]:
    """YAML, of which JSON's strings are a part."""
    license = [f"license: {json.dumps(described.license)}"] if described.license else []
    return [
        "library_name: signvit_jax",
        *license,
        "tags: [sign-language, translation, video]",
        f"datasets: [{json.dumps(dataset)}]",
    ]


def _scores(report: Mapping[str, Any]) -> list[str]:
    rows = [
        "| | as trained | this export |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in report_rows(report)),
    ]
    if "scores" not in report:
        return [*rows, "", "No scores: the data set was not there when the model was exported."]
    after = report["scores"]["after"]
    return [
        *rows,
        "",
        f"BLEU: `{after['signature']}`; chrF: `{after['chrf_signature']}`. Against the raw references, from free-running decoding.",
    ]
