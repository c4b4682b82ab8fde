"""The model card of an export, in the format of model hubs: a YAML head, then Markdown."""

import dataclasses
import json
import re
from pathlib import Path

from signvit_jax import __version__
from signvit_jax.captions.language_tags import language_tag
from signvit_jax.exporting.report import ComparedScores, Report, report_rows
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.serving.export_dir import ExportManifest, is_export

_UNKNOWN = "not stated by the person who exported it"
# Data set -> sign language, language of the texts, and terms of use.
_DATA_SETS = {
    "isign": (
        "Indian Sign Language",
        "English",
        "iSign is gated and under CC BY-NC-SA 4.0: no commercial use",
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
        "How2Sign is under CC BY-NC 4.0: no commercial use",
    ),
    "synthetic_signs": (
        "none: signs drawn by a program",
        "English",
        "drawn by signvit_jax (Apache-2.0)",
    ),
}
# Scores of the report -> type and name in a model index, and its factor.
_INDEXED = {
    "bleu4": ("bleu", "BLEU-4", 1),
    "chrf": ("chrf", "chrF", 1),
    "wer": ("wer", "WER, percent", 100),
    "exact_match": ("exact_match", "exact match, percent", 100),
}
_OPENED_BY = {
    "int8": "`load_translator(FOLDER)`, "
    "`signvit translate --workdir=FOLDER clip.mp4`, `signvit eval`",
    "onnx": "`signvit translate --workdir=FOLDER --backend=onnx clip.mp4`, "
    "`load_translator(FOLDER)`; its programs alone by onnxruntime",
    "stablehlo": "`load_translator(FOLDER)`; its programs alone by `jax.export.deserialize`",
    "safetensors": "`load_translator(FOLDER)`; `signvit convert "
    "--weights=FOLDER/weights.safetensors --workdir=DIR` to continue training",
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

- It knows the signs, signers, cameras and subjects of its training data. It cannot translate
  other sign languages, dialects and camera angles, and it does not warn of them: it gives fluent
  text for any video, even one without a signer. `min_confidence` helps, but does not solve this.
- Sign languages express much with the face, the mouth and the use of space. Short clips of low
  resolution lose part of it.
- The scores above are for held-out clips of the same data set. Scores on your videos will be lower:
  measure them with `signvit eval` before you rely on it.

## What it must not be used for

- In place of an interpreter where someone's health, freedom, money or rights depend on the text:
  medicine, police, courts, emergencies, exams.
- To watch people, to identify them or to judge them (for work, credit, insurance, benefits), or on
  recordings of people who did not agree to it.
- As proof of what someone signed. Keep the video with the text, and state that a machine wrote
  the text.
"""


@dataclasses.dataclass(frozen=True)
class CardFields:
    """Facts that only the person who exports the model knows; None: not given."""

    sign_language: str | None = None
    text_language: str | None = None
    license: str | None = None


def model_card(
    model: TrainedModel, manifest: ExportManifest, report: Report, fields: CardFields
) -> str:
    """Return the card's Markdown: data, languages, license, scores, limits and forbidden uses."""
    data = model.config.data
    clip = f"{data.num_frames} frames per clip"
    if data.sampling == "rate":
        clip = f"{data.frame_rate:g} frames per second, up to {data.num_frames}"
    signed, written, terms = _DATA_SETS.get(
        data.name.partition("/")[0], (_UNKNOWN, _UNKNOWN, f"terms: {_UNKNOWN}")
    )
    return _CARD.format(
        head="\n".join(_head(fields, data.name, written, report)),
        dataset=data.name,
        step=manifest.step,
        format=manifest.format,
        quantize=manifest.quantize.replace("_", " "),
        backbone=model.config.model.encoder.backbone,
        parameters=report["size"]["parameters"],
        words=model.tokenizer.vocab_size,
        signed=fields.sign_language or signed,
        written=fields.text_language or written,
        license=fields.license or _UNKNOWN,
        split=data.train_split,
        terms=terms,
        clip=clip,
        size=data.image_size,
        opened_by=_OPENED_BY[manifest.format],
        scores="\n".join(_scores(report)),
    )


def languages_of(model: TrainedModel) -> tuple[str, str] | None:
    """`languages` of a loaded model: by the card of an export, or else by its data set."""
    folder = Path(model.workdir.path)
    card = folder / "README.md"
    has_card = not model.others and card.is_file() and is_export(folder)
    text = card.read_text(encoding="utf-8", errors="replace") if has_card else None
    return languages(model.config.data.name, text)


def tag_of_texts(model: TrainedModel) -> str:
    """The tag of the language of a model's texts, such as "de"; "" if it is not known."""
    known_languages = languages_of(model)
    return language_tag(known_languages[1]) if known_languages is not None else ""


def languages(dataset: str, card: str | None = None) -> tuple[str, str] | None:
    """Return the sign language and the language of the texts that a model's card states.

    `card` is its Markdown. Without it they are those of the data set. None: they are not known.
    """
    rows = dict(re.findall(r"^\| (sign language|text) \| (.+?) \|$", card or "", re.MULTILINE))
    if {"sign language", "text"} <= set(rows):
        pair = rows["sign language"], rows["text"]
    elif (known := _DATA_SETS.get(dataset.partition("/")[0])) is not None:
        pair = known[:2]
    else:
        return None
    return None if _UNKNOWN in pair else pair


def _head(fields: CardFields, dataset: str, known_language: str, report: Report) -> list[str]:
    """Lines of YAML, as model hubs read them; JSON is valid in it."""
    license = [f"license: {json.dumps(fields.license)}"] if fields.license else []
    code = language_tag(fields.text_language or known_language)
    language = [f"language: [{json.dumps(code)}]"] if code else []
    index = []
    if "scores" in report:
        index = [f"model-index: {json.dumps(_model_index(dataset, report['scores']))}"]
    return [
        "library_name: signvit_jax",
        f"version: {json.dumps(__version__)}",
        *license,
        *language,
        "pipeline_tag: video-text-to-text",
        "tags: [sign-language, translation, video]",
        f"datasets: [{json.dumps(dataset)}]",
        *index,
    ]


def _model_index(dataset: str, scores: ComparedScores) -> list[dict[str, object]]:
    """The export's scores in the form of model hubs."""
    indexed = dict(_INDEXED)
    if scores["after"].get("unit") == "character":
        indexed["wer"] = ("cer", "CER, percent", 100)
    metrics = [
        {"type": kind, "name": name, "value": round(factor * scores["after"][key], 4)}
        for key, (kind, name, factor) in indexed.items()
    ]
    result = {
        "task": {"type": "translation", "name": "Sign-language translation"},
        "dataset": {"type": dataset, "name": dataset, "split": scores["split"]},
        "metrics": metrics,
    }
    return [{"name": f"signvit_jax on {dataset}", "results": [result]}]


def _scores(report: Report) -> list[str]:
    rows = [
        "| | as trained | this export |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in report_rows(report)),
    ]
    if "scores" not in report:
        return [*rows, "", "No scores: the data set was not available when the model was exported."]
    after = report["scores"]["after"]
    return [
        *rows,
        "",
        f"BLEU: `{after['signature']}`; chrF: `{after['chrf_signature']}`. "
        "Against the unprocessed references, from free-running decoding.",
    ]
