"""Corpus metrics of translations against the raw reference texts: BLEU, chrF, ROUGE-L, word error rate, exact match; and gloss error rate.

BLEU, chrF and ROUGE-L are on the field's scale of 0 to 100; word error rate and exact match are rates (0.15 = 15 %; a WER can exceed 1).
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from sacrebleu.metrics import BLEU, CHRF

TOKENIZATIONS = ("13a", "none", "char")
Operation = Literal["match", "substitute", "insert", "delete"]

_ROUGE_BETA = 1.2  # recall's weight in the F-measure; sign-language papers took it over from the COCO caption evaluation
_PHOENIX_COSTS = (4, 3, 3)  # substitution, insertion, deletion in the alignment of the NIST scorer that PHOENIX results are reported with


class MetricError(ValueError):
    """Texts that cannot be scored: none at all, or not as many hypotheses as references."""

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
        return WordErrors(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

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
    signature: str = ""  # sacreBLEU's, of BLEU-4
    chrf_signature: str = ""

    def as_dict(self) -> dict[str, float]:
        """The numbers; the signatures stand beside them in a results file."""
        return {name: value for name, value in dataclasses.asdict(self).items() if not name.endswith("signature")}


def score(references: Sequence[str], hypotheses: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False) -> Scores:
    """All metrics of hypotheses against their raw references (one each).

    `tokenize` is sacreBLEU's for BLEU: `13a` for running text, `none` for text that is tokenised already (PHOENIX), `char` for Chinese (CSL-Daily).
    WER and ROUGE-L count words between spaces, with `char` characters. `lowercase` holds for every metric. White space at the ends and its
    width never count. Raises MetricError.
    """
    _check(references, hypotheses)
    if tokenize not in TOKENIZATIONS:
        raise MetricError(f"tokenize is {tokenize!r}; allowed: one of {', '.join(map(repr, TOKENIZATIONS))}")
    references, hypotheses = _tidied(references, lowercase), _tidied(hypotheses, lowercase)

    bleu = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    full = bleu.corpus_score(hypotheses, [references])
    by_order = [
        BLEU.compute_bleu(full.counts[:n], full.totals[:n], full.sys_len, full.ref_len, smooth_method="exp", max_ngram_order=n).score
        for n in range(1, 5)
    ]
    chrf = CHRF(lowercase=lowercase)
    chrf_score = chrf.corpus_score(hypotheses, [references]).score
    reference_words, hypothesis_words = ([_words(text, tokenize) for text in texts] for texts in (references, hypotheses))
    errors = count_errors(reference_words, hypothesis_words)
    return Scores(
        *by_order,
        chrf=chrf_score,
        rouge_l=100.0 * sum(map(_rouge_l, reference_words, hypothesis_words)) / len(references),
        wer=errors.rate,
        exact_match=sum(r == h for r, h in zip(references, hypotheses)) / len(references),
        **dataclasses.asdict(errors),
        examples=len(references),
        signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
    )


def counted_words(texts: Iterable[str], signature: str = "") -> list[list[str]]:
    """The words that WER counted where `signature` is the BLEU signature of the scores: characters after `tok:char`, lower case after `case:lc`."""
    settings = signature.split("|")
    tokenize = "char" if "tok:char" in settings else "none"
    return [_words(text, tokenize) for text in _tidied(texts, lowercase="case:lc" in settings)]


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Errors between the words of a corpus (split at white space). Raises MetricError."""
    _check(references, hypotheses)
    return count_errors([r.split() for r in references], [h.split() for h in hypotheses])


def gloss_wer(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Gloss error rate as reported on PHOENIX-2014(T): both sides cleaned up, aligned at costs 4/3/3, rate = (S + I + D) / N. Raises MetricError."""
    _check(references, hypotheses)
    return count_errors(map(clean_glosses, references), map(clean_glosses, hypotheses), _PHOENIX_COSTS)


def count_errors(references: Iterable[Sequence[str]], hypotheses: Iterable[Sequence[str]], costs: tuple[int, int, int] = (1, 1, 1)) -> WordErrors:
    """Edits summed over pairs of word lists; `costs` (substitution, insertion, deletion) choose the alignment, each edit counts 1."""
    counts, words = Counter(), 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words += len(reference)
        if reference != hypothesis:
            counts.update(edit.operation for edit in align(reference, hypothesis, costs))
    return WordErrors(counts["substitute"], counts["insert"], counts["delete"], words)


def align(reference: Sequence[str], hypothesis: Sequence[str], costs: tuple[int, int, int] = (1, 1, 1)) -> list[Edit]:
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
    return Counter((edit.reference, edit.hypothesis) for edits in alignments for edit in edits if edit.operation != "match")


_SPELLED = re.compile(r"(?:[A-Z]|SCH|NN)(?:\+(?:[A-Z]|SCH|NN))*")


def clean_glosses(line: str) -> list[str]:
    """The glosses of a PHOENIX line as they are scored.

    `__EMOTION__` and other markers go, `loc-`, `cl-`, `-PLUSPLUS` and the place suffix `RAUM` are taken off, `WIE AUSSEHEN` is one sign, letters
    spelled one after the other are joined with `+`, and a gloss that follows itself counts once.
    """
    line = re.sub(r"__\w*?__", " ", line)
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
    """Header and rows, a row per decoder, as text: what the screen and the report show."""
    return ["decoder", *_COLUMNS], [[name, *(show(s) for show in _COLUMNS.values())] for name, s in scores.items()]


def format_table(scores: Mapping[str, Scores], title: str | None = None) -> Table:
    """A rich table, decoders down, metrics across; the sacreBLEU signature stands below."""
    header, rows = table_cells(scores)
    signatures = sorted({s.signature for s in scores.values() if s.signature})
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, caption="\n".join(f"BLEU {signature}" for signature in signatures) or None)
    for column in header:
        table.add_column(column, justify="left" if column == "decoder" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _check(references: Sequence[Any], hypotheses: Sequence[Any]) -> None:
    if len(references) != len(hypotheses):
        raise MetricError(f"there are {len(references)} references but {len(hypotheses)} hypotheses; every example needs exactly one of each")
    if not len(references):
        raise MetricError("there is nothing to score: no references and no hypotheses")


def _tidied(texts: Iterable[str], lowercase: bool) -> list[str]:
    return [" ".join((text.lower() if lowercase else text).split()) for text in texts]


def _words(text: str, tokenize: str) -> list[str]:
    return list(text.replace(" ", "")) if tokenize == "char" else text.split()


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
