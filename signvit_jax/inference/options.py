"""Options of a translation that replace values of `config.inference`."""

from typing import TypedDict


class InferenceOptions(TypedDict, total=False):
    """Keyword arguments of `Translator`: the keys of `InferenceConfig`, which has their ranges."""

    temperature: float
    top_k: int
    top_p: float
    beam_size: int
    n_best: int
    length_penalty: float
    length_formula: str
    ctc_weight: float
    gloss_weight: float
    lexicon_weight: float
    no_repeat_ngram_size: int
    min_confidence: float
    batch_size: int
    max_clip_seconds: float
    window_seconds: float
    window_overlap: float
    rest_seconds: float
    rest_detection: str
    rest_evidence: float
