"""Options of the searches over token sequences, and the error for values that cannot work."""

import dataclasses

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.errors.base import SignVitError

LENGTH_FORMULAS = ("power", "gnmt")


class DecodingError(SignVitError, ValueError):
    """A search option or an ensemble that cannot work; commands exit with code 2.

    The message gives the value and the allowed values.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """All that a decoder's compiled program depends on, apart from the model and shapes of arrays.

    Frozen and hashable: it is the one static argument of the jitted searches, so every new value
    compiles again. Each search reads its own options and ignores the others. Raises DecodingError
    for values out of range.
    """

    bos_id: int
    eos_id: int
    max_len: int | None = None  # tokens per sentence, BOS and EOS included; None: the decoder's own
    no_repeat_ngram_size: int = 0  # n: no n-gram occurs twice in a sentence; 0: off
    length_penalty: float = 1.0  # >= 0, see `length_normalizer`
    length_formula: str = "power"  # or "gnmt"
    beam_size: int = 4  # slots per clip
    n_best: int = 1  # hypotheses per clip that beam searches return, at most `beam_size`
    ctc_weight: float = 0.0  # 0 to 1: weight of CTC when it rescores the list of beam search
    gloss_weight: float = 0.0  # 0 to 1: weight of the gloss memory, of sources that have one
    temperature: float = 1.0  # > 0; sampling divides the logits by it
    top_k: int = 0  # sampling draws from the k most probable tokens; 0: from all
    top_p: float = 1.0  # > 0 and <= 1, see `restrict`

    def __post_init__(self):
        for option, is_allowed, allowed in (
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "an integer >= 0 (0 = off)"),
            ("length_penalty", self.length_penalty >= 0, "a number >= 0"),
            ("length_formula", self.length_formula in LENGTH_FORMULAS, "'power' or 'gnmt'"),
            ("beam_size", self.beam_size >= 1, "an integer >= 1"),
            ("n_best", self.n_best >= 1, "an integer >= 1"),
            ("ctc_weight", 0 <= self.ctc_weight <= 1, "a number from 0 to 1"),
            ("gloss_weight", 0 <= self.gloss_weight <= 1, "a number from 0 to 1"),
            ("temperature", self.temperature > 0, "a number > 0"),
            ("top_k", self.top_k >= 0, "an integer >= 0 (0 = all tokens)"),
            ("top_p", 0 < self.top_p <= 1, "a number > 0 and <= 1"),
        ):
            require_option(option, getattr(self, option), is_allowed, allowed)

    @classmethod
    def from_config(cls, config: InferenceConfig, *, bos_id: int, eos_id: int) -> "SearchOptions":
        """Return the options of an inference config for a decoder with these special ids."""
        return cls(
            bos_id=bos_id,
            eos_id=eos_id,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            length_penalty=config.length_penalty,
            length_formula=config.length_formula,
            beam_size=config.beam_size,
            n_best=config.n_best,
            ctc_weight=config.ctc_weight,
            gloss_weight=config.gloss_weight,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )


def require_option(option: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Raise DecodingError unless the value `is_allowed`; `allowed` describes what is."""
    if not is_allowed:
        raise DecodingError(f"{option} is {value!r}; allowed: {allowed}")
