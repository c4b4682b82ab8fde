"""What the page says of the model: its languages, its origin, and that it is a guess."""

from pathlib import Path
from typing import TypedDict

from signvit_jax import __version__
from signvit_jax.exporting.model_card import languages
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.serving.export_dir import is_export


class ModelFacts(TypedDict):
    """Facts of a model; languages are None where neither its card nor its data set tells them."""

    name: str
    step: int
    data_set: str
    sign_language: str | None
    text_language: str | None
    version: str
    is_demo: bool


def model_facts(model: TrainedModel, is_demo: bool = False) -> ModelFacts:
    """Return the facts of a loaded model. Its path stays private; the folder's name is told."""
    folder = Path(model.workdir.path)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if _has_card(model) else None
    found = languages(model.config.data.name, text) or (None, None)
    return ModelFacts(
        name="demo" if is_demo else folder.resolve().name,
        step=model.step,
        data_set=model.config.data.name,
        sign_language=found[0],
        text_language=found[1],
        version=__version__,
        is_demo=is_demo,
    )


def _has_card(model: TrainedModel) -> bool:
    folder = Path(model.workdir.path)
    return not model.others and (folder / "README.md").is_file() and is_export(folder)
