"""Corpus metrics of translations against the raw reference texts: BLEU, chrF, ROUGE-L, word error rate, exact match; and gloss error rate.

BLEU, chrF and ROUGE-L are on the field's scale of 0 to 100; word error rate and exact match are rates (0.15 = 15 %; a WER can exceed 1).
Both sides are compared in Unicode's NFC: how an accent was typed is no error. Errors are counted in
words and, of scripts without spaces, in characters (`text_scripts.units`).
"""

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from sacrebleu.metrics import BLEU, CHRF

from signvit_jax.config.schema import TOKENIZATIONS
from signvit_jax.errors.base import SignVitError
from signvit_jax.text import scripts

Operation = Literal["match", "substitute", "insert", "delete"]

_ROUGE_BETA = 1.2  # recall's weight in the F-measure; sign-language papers took it over from the COCO caption evaluation
_PHOENIX_COSTS = (
    4,
    3,
    3,
)  # substitution, insertion, deletion in the alignment of the NIST scorer that PHOENIX results are reported with


class MetricError(SignVitError, ValueError):
    """Texts that cannot be scored: none at all, not as many hypotheses as references, or no such tokenization."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Edit:
    """One step from a reference to a hypothesis; the word is None on the side that has none."""

    operation: Operation
    reference: str | None
    hypothesis: str | None


@dataclasses.dataclass(frozen=True)
class WordErrors:
    """Errors counted over a corpus; counts of several corpora add up."""

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
        """(S + I + D) / N. Where no reference has a word, each inserted word counts as a whole error (N = 1)."""
        return self.errors / max(self.reference_words, 1)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a decoder reached on a split; see the module's docstring for the scales."""

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
    unit: str = "word"  # what WER, ROUGE-L and the counts are of: "word", "character" or "gloss"
    signature: str = ""  # sacreBLEU's, of BLEU-4
    chrf_signature: str = ""

    def as_dict(self) -> dict[str, float]:
        """The numbers; unit and signatures stand beside them in a results file."""
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
    """All metrics of hypotheses against their raw references (one each).

    `tokenize` is sacreBLEU's for BLEU: `13a` for running text, `none` for text that is tokenized already (PHOENIX), `char` or `zh` for Chinese;
    `auto` decides by the references' script. WER and ROUGE-L count units of `text_scripts`, with `char` every character. `glosses`: what spaces
    set apart is a gloss, whatever `tokenize` says. `lowercase` holds for every metric. White space at the ends and its width never count.
    Raises MetricError.
    """
    _check(references, hypotheses)
    references, hypotheses = _tidied(references, lowercase), _tidied(hypotheses, lowercase)
    bleu = _bleu("none" if glosses else tokenize, lowercase, references)
    full = bleu.corpus_score(hypotheses, [references])
    by_order = [
        BLEU.compute_bleu(
            full.counts[:n],
            full.totals[:n],
            full.sys_len,
            full.ref_len,
            smooth_method="exp",
            max_ngram_order=n,
        ).score
        for n in range(1, 5)
    ]
    chrf = CHRF(lowercase=lowercase)
    chrf_score = chrf.corpus_score(hypotheses, [references]).score
    signature = str(bleu.get_signature())
    by_character = not glosses and (
        "tok:char" in signature.split("|") or scripts.mostly_unspaced(references)
    )
    unit = "gloss" if glosses else "character" if by_character else "word"
    reference_words, hypothesis_words = (
        [_words(text, signature, unit) for text in texts] for texts in (references, hypotheses)
    )
    errors = count_errors(reference_words, hypothesis_words)
    return Scores(
        *by_order,
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
    """Raises MetricError for a tokenization that does not exist or needs more than is installed."""
    _bleu(tokenize, False, ())


def counted_words(texts: Iterable[str], scores: Scores) -> list[list[str]]:
    """The words (characters, glosses) that the WER of `scores` counted."""
    lowercase = "case:lc" in scores.signature.split("|")
    return [_words(text, scores.signature, scores.unit) for text in _tidied(texts, lowercase)]


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Errors between the words of a corpus (`text_scripts.units`). Raises MetricError."""
    _check(references, hypotheses)
    return count_errors(
        *(
            [_words(text, "", "word") for text in _tidied(texts, False)]
            for texts in (references, hypotheses)
        )
    )


def gloss_wer(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Gloss error rate as reported on PHOENIX-2014(T): both sides cleaned up, aligned at costs 4/3/3, rate = (S + I + D) / N. Raises MetricError."""
    _check(references, hypotheses)
    return count_errors(
        map(clean_glosses, references), map(clean_glosses, hypotheses), _PHOENIX_COSTS
    )


def count_errors(
    references: Iterable[Sequence[str]],
    hypotheses: Iterable[Sequence[str]],
    costs: tuple[int, int, int] = (1, 1, 1),
) -> WordErrors:
    """Edits summed over pairs of word lists; `costs` (substitution, insertion, deletion) choose the alignment, each edit counts 1."""
    counts, words = Counter(), 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words += len(reference)
        if reference != hypothesis:
            counts.update(edit.operation for edit in align(reference, hypothesis, costs))
    return WordErrors(counts["substitute"], counts["insert"], counts["delete"], words)


def align(
    reference: Sequence[str], hypothesis: Sequence[str], costs: tuple[int, int, int] = (1, 1, 1)
) -> list[Edit]:
    """A cheapest way from reference to hypothesis (Levenshtein 1966); `costs` are of substitution, insertion and deletion.

    Among equally cheap ways the one with matches and substitutions furthest to the right.
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
    """How often which word came out as which other; (word, None) was left out, (None, word) was put in."""
    return Counter(
        (edit.reference, edit.hypothesis)
        for edits in alignments
        for edit in edits
        if edit.operation != "match"
    )


_SPELLED = re.compile(r"(?:[A-Z]|SCH|NN)(?:\+(?:[A-Z]|SCH|NN))*")


def clean_glosses(line: str) -> list[str]:
    """The glosses of a PHOENIX line as they are scored.

    `__EMOTION__` and other markers go, `loc-`, `cl-`, `-PLUSPLUS` and the place suffix `RAUM` are taken off, `WIE AUSSEHEN` is one sign, letters
    spelled one after the other are joined with `+`, and a gloss that follows itself counts once.
    """
    line = re.sub(r"__\w*?__", " ", unicodedata.normalize("NFC", line))
    line = re.sub(r"\bWIE AUSSEHEN\b", "WIE-AUSSEHEN", line)
    glosses = []
    for gloss in line.split():
        gloss = re.sub(r"^(?:loc-|cl-)+", "", gloss)
        gloss = re.sub(r"(?:-PLUSPLUS)+$", "", gloss)
        gloss = re.sub(r"^([A-Z]+)RAUM$", r"\1", gloss)
        if glosses and _SPELLED.fullmatch(gloss) and _SPELLED.fullmatch(glosses[-1]):
            glosses[-1] += "+" + gloss
        elif gloss:
            glosses.append(gloss)
    return [gloss for gloss, _ in groupby(glosses)]


_COLUMNS = {
    "BLEU-1": lambda s: f"{s.bleu1:.2f}",
    "BLEU-2": lambda s: f"{s.bleu2:.2f}",
    "BLEU-3": lambda s: f"{s.bleu3:.2f}",
    "BLEU-4": lambda s: f"{s.bleu4:.2f}",
    "chrF": lambda s: f"{s.chrf:.2f}",
    "ROUGE-L": lambda s: f"{s.rouge_l:.2f}",
    "WER": lambda s: f"{s.wer:.1%}",
    "exact": lambda s: f"{s.exact_match:.1%}",
}


def table_cells(scores: Mapping[str, Scores]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row per decoder, as text: what the screen and the report show.

    The error rate is called CER where characters were counted; a row of glosses says so.
    """
    units = {s.unit for s in scores.values()}
    rate = "WER" if "character" not in units else "CER" if units == {"character"} else "CER/WER"
    header = ["decoder", *(rate if column == "WER" else column for column in _COLUMNS)]
    names = {name: f"{name} (glosses)" if s.unit == "gloss" else name for name, s in scores.items()}
    return header, [
        [names[name], *(show(s) for show in _COLUMNS.values())] for name, s in scores.items()
    ]


def unit_notes(scores: Mapping[str, Scores]) -> list[str]:
    """What the figures are of, where that is not simply the words of every clip."""
    notes = []
    if by_character := [name for name, s in scores.items() if s.unit == "character"]:
        notes.append(f"{', '.join(by_character)}: error rate by character (CER)")
    for name, s in scores.items():
        if s.unit == "gloss":
            notes.append(
                f"{name}: scored against the glosses of the {s.examples:,} clips that have them"
            )
    return notes


def format_table(scores: Mapping[str, Scores], title: str | None = None) -> Table:
    """A rich table, decoders down, metrics across; what was counted and the sacreBLEU signature stand below."""
    header, rows = table_cells(scores)
    signatures = sorted({s.signature for s in scores.values() if s.signature})
    below = [*unit_notes(scores), *(f"BLEU {signature}" for signature in signatures)]
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, caption="\n".join(below) or None
    )
    for column in header:
        table.add_column(column, justify="left" if column == "decoder" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _check(references: Sequence[Any], hypotheses: Sequence[Any]) -> None:
    if len(references) != len(hypotheses):
        raise MetricError(
            f"there are {len(references)} references but {len(hypotheses)} hypotheses; every example needs exactly one of each"
        )
    if not len(references):
        raise MetricError("there is nothing to score: no references and no hypotheses")


def _tidied(texts: Iterable[str], lowercase: bool) -> list[str]:
    return [
        " ".join(unicodedata.normalize("NFC", text.lower() if lowercase else text).split())
        for text in texts
    ]


def _bleu(tokenize: str, lowercase: bool, references: Sequence[str]) -> BLEU:
    if tokenize not in TOKENIZATIONS:
        raise MetricError(
            f"tokenize is {tokenize!r}; allowed: one of {', '.join(map(repr, TOKENIZATIONS))}"
        )
    if tokenize == "auto":
        tokenize = "char" if scripts.mostly_unspaced(references) else "13a"
    try:
        return BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    except (
        ImportError,
        RuntimeError,
    ) as error:  # RuntimeError is sacreBLEU's own for what is not installed
        raise MetricError(
            f"tokenize is {tokenize!r}, which needs more than is installed: pip install 'sacrebleu[{tokenize[:2]}]'; "
            "or take 'auto', which scores such text by character"
        ) from error


def _words(text: str, signature: str, unit: str) -> list[str]:
    if "tok:char" in signature.split("|"):
        return list(text.replace(" ", ""))
    return scripts.units(text, by_spaces=unit == "gloss")


def _rouge_l(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """F-measure of the longest common subsequence (Lin 2004), 0 to 1; two empty texts agree."""
    if not reference or not hypothesis:
        return float(reference == hypothesis)
    common = _common_subsequence(reference, hypothesis)
    if not common:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time in the bits of one integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    row = every
    for word in b:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & every
    return len(a) - row.bit_count()
