"""Corpus metrics against raw reference texts.

BLEU, chrF and ROUGE-L are on the usual scale of 0 to 100. Word error rate, gloss error rate and
exact match are rates (0.15 = 15 %; an error rate can exceed 1). Both sides are compared in
Unicode's NFC, so the way in which an accent was typed is no error. Errors are counted in words and,
for scripts without spaces, in characters (`writing_systems.units`).
"""

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from itertools import groupby
from typing import Literal

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from signvit_jax.config.schema import TOKENIZATIONS
from signvit_jax.errors.base import SignVitError
from signvit_jax.text import writing_systems

Operation = Literal["match", "substitute", "insert", "delete"]

# Weight of recall in the F-measure, which sign-language papers took over from COCO captions.
_ROUGE_BETA = 1.2
# Substitution, insertion and deletion in the alignment of the NIST scorer, which the published
# results on PHOENIX use.
_PHOENIX_COSTS = (4, 3, 3)


class MetricError(SignVitError, ValueError):
    """Texts that cannot be scored, or an unknown tokenization.

    Texts cannot be scored if there are none, or not as many hypotheses as references.
    """


@dataclasses.dataclass(frozen=True)
class Edit:
    """One step of an alignment; the word is None on the side that has none."""

    operation: Operation
    reference: str | None
    hypothesis: str | None


@dataclasses.dataclass(frozen=True)
class WordErrors:
    """Errors counted over a corpus; the counts of several corpora can be added."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    reference_words: int = 0

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(
            *(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other)))
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """(S + I + D) / N; with N = 1 if no reference has a word."""
        return self.errors / max(self.reference_words, 1)


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a decoder on a split; the scales are in the module's docstring."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    chrf: float
    rouge_l: float
    wer: float
    exact_match: float
    substitutions: int
    insertions: int
    deletions: int
    reference_words: int
    examples: int
    unit: str = "word"  # of WER, ROUGE-L and the counts: "word", "character" or "gloss"
    signature: str = ""  # sacreBLEU's, of BLEU-4
    chrf_signature: str = ""

    def as_dict(self) -> dict[str, float]:
        """Return the numbers, without unit and signatures: these are beside them in a file."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name != "unit" and not name.endswith("signature")
        }


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    tokenize: str = "auto",
    lowercase: bool = False,
    glosses: bool = False,
) -> Scores:
    """Return all metrics of hypotheses against their raw references, one for each.

    White space at the ends of a text is ignored, and a run of it counts as one space.

    Args:
        tokenize: sacreBLEU's tokenization for BLEU: "13a" for running text, "none" for tokenized
            text (PHOENIX), "char" or "zh" for Chinese. "auto" chooses by the script of the
            references. WER and ROUGE-L count `writing_systems.units`, with "char" every character.
        lowercase: Whether all metrics ignore case.
        glosses: Whether the texts are glosses: then spaces separate them, whatever `tokenize` is.

    Raises:
        MetricError: If the texts cannot be scored.
    """
    _require_pairs(references, hypotheses)
    references = [normalize_text(text, lowercase) for text in references]
    hypotheses = [normalize_text(text, lowercase) for text in hypotheses]
    bleu = _bleu("none" if glosses else tokenize, lowercase, references)
    bleu1, bleu2, bleu3, bleu4 = _bleu_by_order(bleu, references, hypotheses)
    chrf = CHRF(lowercase=lowercase)
    chrf_score = chrf.corpus_score(hypotheses, [references]).score
    signature = str(bleu.get_signature())
    if glosses:
        unit = "gloss"
    elif "tok:char" in signature.split("|") or writing_systems.mostly_unspaced(references):
        unit = "character"
    else:
        unit = "word"
    reference_words = [_words(text, signature, unit) for text in references]
    hypothesis_words = [_words(text, signature, unit) for text in hypotheses]
    errors = count_errors(reference_words, hypothesis_words)
    return Scores(
        bleu1=bleu1,
        bleu2=bleu2,
        bleu3=bleu3,
        bleu4=bleu4,
        chrf=chrf_score,
        rouge_l=100.0 * sum(map(_rouge_l, reference_words, hypothesis_words)) / len(references),
        wer=errors.rate,
        exact_match=sum(r == h for r, h in zip(references, hypotheses)) / len(references),
        **dataclasses.asdict(errors),
        examples=len(references),
        unit=unit,
        signature=signature,
        chrf_signature=str(chrf.get_signature()),
    )


def check_tokenization(tokenize: str) -> None:
    """Raise MetricError for a tokenization that is unknown or needs more than is installed."""
    _bleu(tokenize, False, ())


def same_metrics(scores: Scores) -> tuple[BLEU, CHRF]:
    """Return sacreBLEU's metrics with the settings of `scores`. Raises MetricError."""
    settings = dict(part.split(":", 1) for part in scores.signature.split("|") if ":" in part)
    lowercase = settings.get("case") == "lc"
    return _bleu(settings.get("tok", "auto"), lowercase, ()), CHRF(lowercase=lowercase)


def counted_words(texts: Iterable[str], scores: Scores) -> list[list[str]]:
    """Return the words (characters, glosses) that the WER of `scores` counted."""
    lowercase = "case:lc" in scores.signature.split("|")
    return [_words(normalize_text(t, lowercase), scores.signature, scores.unit) for t in texts]


def gloss_wer(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Return the gloss errors by the rules of published results on PHOENIX-2014(T).

    Both sides are cleaned and aligned with the costs 4/3/3; the rate is (S + I + D) / N.
    Raises MetricError.
    """
    _require_pairs(references, hypotheses)
    return count_errors(
        map(clean_glosses, references), map(clean_glosses, hypotheses), _PHOENIX_COSTS
    )


def count_errors(
    references: Iterable[Sequence[str]],
    hypotheses: Iterable[Sequence[str]],
    costs: tuple[int, int, int] = (1, 1, 1),
) -> WordErrors:
    """Return the edits, summed over pairs of word lists.

    `costs` (substitution, insertion, deletion) choose the alignment; every edit counts 1.
    """
    counts, words = Counter(), 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words += len(reference)
        if reference != hypothesis:
            counts.update(edit.operation for edit in align(reference, hypothesis, costs))
    return WordErrors(counts["substitute"], counts["insert"], counts["delete"], words)


def align(
    reference: Sequence[str], hypothesis: Sequence[str], costs: tuple[int, int, int] = (1, 1, 1)
) -> list[Edit]:
    """Return an alignment of minimal cost (Levenshtein 1966).

    `costs` are those of substitution, insertion and deletion. Of several minimal alignments it is
    the one whose matches and substitutions are furthest to the right.
    """
    substitution, insertion, deletion = costs
    table = [[i * deletion] for i in range(len(reference) + 1)]
    table[0] = [j * insertion for j in range(len(hypothesis) + 1)]
    for above, row, word in zip(table, table[1:], reference):
        for j, other in enumerate(hypothesis):
            diagonal = above[j] + (0 if word == other else substitution)
            row.append(min(diagonal, above[j + 1] + deletion, row[j] + insertion))

    edits: list[Edit] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        same = i > 0 and j > 0 and reference[i - 1] == hypothesis[j - 1]
        if i and j and table[i][j] == table[i - 1][j - 1] + (0 if same else substitution):
            i, j = i - 1, j - 1
            edits.append(Edit("match" if same else "substitute", reference[i], hypothesis[j]))
        elif i and table[i][j] == table[i - 1][j] + deletion:
            i -= 1
            edits.append(Edit("delete", reference[i], None))
        else:
            j -= 1
            edits.append(Edit("insert", None, hypothesis[j]))
    return edits[::-1]


def confusions(alignments: Iterable[Sequence[Edit]]) -> Counter[tuple[str | None, str | None]]:
    """Count the edits (reference word, hypothesis word).

    (word, None) is a deletion, and (None, word) is an insertion.
    """
    return Counter(
        (edit.reference, edit.hypothesis)
        for edits in alignments
        for edit in edits
        if edit.operation != "match"
    )


_FINGERSPELLED = re.compile(r"(?:[A-Z]|SCH|NN)(?:\+(?:[A-Z]|SCH|NN))*")


def clean_glosses(line: str) -> list[str]:
    """Return the glosses of a PHOENIX line as they are scored.

    Markers such as `__EMOTION__` are removed, and so are `loc-`, `cl-`, `-PLUSPLUS` and the suffix
    `RAUM` of places. `WIE AUSSEHEN` becomes one sign, consecutive fingerspelled letters are joined
    with `+`, and repeated glosses are merged.
    """
    line = re.sub(r"__\w*?__", " ", unicodedata.normalize("NFC", line))
    line = re.sub(r"\bWIE AUSSEHEN\b", "WIE-AUSSEHEN", line)
    glosses = []
    for gloss in line.split():
        gloss = re.sub(r"^(?:loc-|cl-)+", "", gloss)
        gloss = re.sub(r"(?:-PLUSPLUS)+$", "", gloss)
        gloss = re.sub(r"^([A-Z]+)RAUM$", r"\1", gloss)
        is_letters = _FINGERSPELLED.fullmatch(gloss)
        if glosses and is_letters and _FINGERSPELLED.fullmatch(glosses[-1]):
            glosses[-1] += "+" + gloss
        elif gloss:
            glosses.append(gloss)
    return [gloss for gloss, _ in groupby(glosses)]


def normalize_text(text: str, lowercase: bool) -> str:
    """Return the text in NFC with every run of white space as one space, and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text.lower() if lowercase else text).split())


def _require_pairs(references: Sized, hypotheses: Sized) -> None:
    if len(references) != len(hypotheses):
        raise MetricError(
            f"there are {len(references)} references but {len(hypotheses)} hypotheses; "
            "every example needs exactly one of each"
        )
    if not len(references):
        raise MetricError("there is nothing to score: no references and no hypotheses")


def _bleu(tokenize: str, lowercase: bool, references: Sequence[str]) -> BLEU:
    if tokenize not in TOKENIZATIONS:
        raise MetricError(
            f"tokenize is {tokenize!r}; allowed: one of {', '.join(map(repr, TOKENIZATIONS))}"
        )
    if tokenize == "auto":
        tokenize = "char" if writing_systems.mostly_unspaced(references) else "13a"
    try:
        return BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    except (ImportError, RuntimeError) as error:  # sacreBLEU raises both for missing packages
        raise MetricError(
            f"tokenize is {tokenize!r}, which needs more than is installed: "
            f"pip install 'sacrebleu[{tokenize[:2]}]'; "
            "or use 'auto', which scores such text by character"
        ) from error


def _bleu_by_order(
    bleu: BLEU, references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[float, float, float, float]:
    """Return BLEU-1 to BLEU-4, from n-grams that are counted once."""
    counts = bleu.corpus_score(hypotheses, [references])

    def up_to(order: int) -> float:
        return BLEU.compute_bleu(
            counts.counts[:order],
            counts.totals[:order],
            counts.sys_len,
            counts.ref_len,
            smooth_method="exp",
            max_ngram_order=order,
        ).score

    return up_to(1), up_to(2), up_to(3), up_to(4)


def _words(text: str, signature: str, unit: str) -> list[str]:
    if "tok:char" in signature.split("|"):
        return list(text.replace(" ", ""))
    return writing_systems.units(text, by_spaces=unit == "gloss")


def _rouge_l(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Return the F-measure of the longest common subsequence (Lin 2004), 0 to 1.

    Two empty texts have 1.
    """
    if not reference or not hypothesis:
        return float(reference == hypothesis)
    common = _common_subsequence(reference, hypothesis)
    if not common:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    The bits of one integer hold a row of the dynamic-programming table (Hyyrö 2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    all_places = (1 << len(a)) - 1
    row = all_places
    for word in b:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & all_places
    return len(a) - row.bit_count()
