"""Metrics, compared with sacreBLEU, brute force over all alignments, and scores by hand."""

import functools
import importlib.util
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sacrebleu.metrics import BLEU, CHRF

from signvit_jax.evaluation import metrics
from signvit_jax.evaluation.metrics import (
    MetricError,
    WordErrors,
    align,
    clean_glosses,
    confusions,
    count_errors,
    counted_words,
    gloss_wer,
    score,
)
from signvit_jax.evaluation.score_table import format_table, table_cells, unit_notes

REFERENCES = [
    "The weather will be fine tomorrow.",
    "my friend, Anna, goes to school",
    "",
    "rain in the north and sun in the south",
    "yes",
]
HYPOTHESES = [
    "The weather is fine tomorrow.",
    "Anna goes to my school",
    "what",
    "rain in the north and snow in the south",
    "",
]

words = st.lists(st.sampled_from("abc"), max_size=6)


@functools.cache
def minimal_cost(reference, hypothesis, costs):
    """Return the edit distance by its recursive definition.

    `costs` are those of a substitution, an insertion and a deletion.
    """
    if not reference:
        return len(hypothesis) * costs[1]
    if not hypothesis:
        return len(reference) * costs[2]
    substitution = (reference[0] != hypothesis[0]) * costs[0]
    return min(
        minimal_cost(reference[1:], hypothesis[1:], costs) + substitution,
        minimal_cost(reference, hypothesis[1:], costs) + costs[1],
        minimal_cost(reference[1:], hypothesis, costs) + costs[2],
    )


def word_errors(references, hypotheses):
    return count_errors(
        [text.split() for text in references], [text.split() for text in hypotheses]
    )


@given(words, words, st.sampled_from([(1, 1, 1), (4, 3, 3)]))
def test_an_alignment_has_minimal_cost_and_spells_both_sides(reference, hypothesis, costs):
    edits = align(reference, hypothesis, costs)
    cost_of = dict(zip(("substitute", "insert", "delete"), costs), match=0)
    expected = minimal_cost(tuple(reference), tuple(hypothesis), costs)
    assert sum(cost_of[edit.operation] for edit in edits) == expected
    assert [edit.reference for edit in edits if edit.reference is not None] == reference
    assert [edit.hypothesis for edit in edits if edit.hypothesis is not None] == hypothesis
    assert all((edit.reference == edit.hypothesis) == (edit.operation == "match") for edit in edits)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_the_error_rate_is_that_of_the_corpus(pairs):
    found = count_errors(*zip(*pairs))
    assert found.errors == sum(minimal_cost(tuple(r), tuple(h), (1, 1, 1)) for r, h in pairs)
    assert found.reference_words == sum(len(r) for r, _ in pairs)
    assert found.rate == found.errors / max(found.reference_words, 1)


def test_kinds_of_errors_are_counted_separately():
    found = word_errors(["a b c d", "x", ""], ["a q d", "x y", "z"])
    assert found == WordErrors(substitutions=1, insertions=2, deletions=1, reference_words=5)
    assert found.rate == 4 / 5


def test_errors_of_two_corpora_can_be_added():
    assert WordErrors(1, 2, 3, 4) + WordErrors(1, 1, 1, 1) == WordErrors(2, 3, 4, 5)


@pytest.mark.parametrize("tokenize", ["13a", "none", "char"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_and_chrf_equal_sacrebleus_at_every_order(tokenize, lowercase):
    scores = score(REFERENCES, HYPOTHESES, tokenize=tokenize, lowercase=lowercase)
    for order in range(1, 5):
        bleu = BLEU(tokenize=tokenize, lowercase=lowercase, max_ngram_order=order)
        expected = bleu.corpus_score(HYPOTHESES, [REFERENCES]).score
        assert getattr(scores, f"bleu{order}") == pytest.approx(expected, abs=1e-9)
    assert scores.bleu1 > scores.bleu2 > scores.bleu4 > 0
    chrf = CHRF(lowercase=lowercase).corpus_score(HYPOTHESES, [REFERENCES]).score
    assert scores.chrf == pytest.approx(chrf)
    fields = scores.signature.split("|")
    assert f"case:{'lc' if lowercase else 'mixed'}" in fields
    assert f"tok:{tokenize}" in fields
    assert "version:" in scores.signature
    assert "nc:6" in scores.chrf_signature


def test_equal_texts_score_a_hundred():
    scores = score(REFERENCES[:2], [f"  {r}\n" for r in REFERENCES[:2]])
    assert (scores.bleu4, scores.chrf, scores.rouge_l) == pytest.approx((100, 100, 100))
    assert scores.wer == 0 and scores.exact_match == 1


def test_empty_hypotheses_score_zero():
    scores = score(REFERENCES[:2], ["", ""])
    assert scores.bleu1 == scores.bleu4 == scores.chrf == scores.rouge_l == 0
    assert scores.exact_match == 0
    assert scores.wer == 1 and scores.deletions == scores.reference_words


def test_empty_references_can_be_scored():
    scores = score(["", ""], ["", "three false words"])
    assert scores.exact_match == 0.5 and scores.bleu4 == 0
    assert scores.insertions == 3 and scores.wer == 3
    assert score([""], [""]).exact_match == 1


def test_lowercase_holds_for_every_metric():
    mixed = score(["Rain In The North"], ["rain in the north"])
    assert mixed.exact_match == 0 and mixed.wer == 1 and mixed.bleu1 == 0 and mixed.rouge_l == 0
    lower = score(["Rain In The North"], ["rain in the north"], lowercase=True)
    assert lower.exact_match == 1 and lower.wer == 0 and lower.rouge_l == 100
    assert lower.bleu4 == pytest.approx(100)


def test_chinese_words_are_characters():
    scores = score(["明天 天气 很好"], ["明天天气不好"], tokenize="char")
    assert scores.reference_words == 6 and scores.substitutions == 1 and scores.wer == 1 / 6


@given(words, words)
def test_common_subsequence_equals_its_recursive_definition(a, b):
    @functools.cache
    def longest(i, j):
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    assert metrics._common_subsequence(a, b) == longest(0, 0)


def test_rouge_l_is_the_mean_of_the_papers_formula():
    # The longest common subsequence "a c" has 2 words: precision 2/2, recall 2/3; beta is 1.2. The
    # second pair has no common word.
    first = (1 + 1.44) * 1.0 * (2 / 3) / ((2 / 3) + 1.44 * 1.0)
    assert score(["a b c", "d"], ["a c", "e"]).rouge_l == pytest.approx(100 * first / 2)


def test_confusions_count_substitutions_insertions_and_deletions():
    pairs = [
        ("rain today", "snow today"),
        ("rain now", "snow now"),
        ("sun", "sun shines"),
        ("the end", "end"),
    ]
    alignments = (align(reference.split(), hypothesis.split()) for reference, hypothesis in pairs)
    expected = {("rain", "snow"): 2, (None, "shines"): 1, ("the", None): 1}
    assert confusions(alignments) == expected


@pytest.mark.parametrize("tokenize", ["13a", "none", "char"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_a_signature_determines_the_counted_words(tokenize, lowercase):
    scores = score(REFERENCES, HYPOTHESES, tokenize=tokenize, lowercase=lowercase)
    errors = count_errors(counted_words(REFERENCES, scores), counted_words(HYPOTHESES, scores))
    assert (errors.rate, errors.reference_words) == (scores.wer, scores.reference_words)


@pytest.mark.parametrize(
    ("line", "cleaned"),
    [
        ("__ON__ MORGEN __EMOTION__ REGEN __OFF__", "MORGEN REGEN"),
        ("__LEFTHAND__WETTER", "WETTER"),
        ("loc-NORD cl-KOMMEN WOLKE-PLUSPLUS", "NORD KOMMEN WOLKE"),
        ("S T A D T REGEN", "S+T+A+D+T REGEN"),
        ("BERG A+B C SCH N", "BERG A+B+C+SCH+N"),
        ("REGEN REGEN SONNE REGEN", "REGEN SONNE REGEN"),
        ("loc-NORD NORD", "NORD"),
        ("WIE AUSSEHEN NORDRAUM", "WIE-AUSSEHEN NORD"),
        ("", ""),
        ("RAUM", "RAUM"),
    ],
)
def test_phoenix_glosses_are_cleaned(line, cleaned):
    assert clean_glosses(line) == cleaned.split()


def test_phoenix_costs_prefer_keeping_a_match():
    # With unit costs, two substitutions are cheapest. With the costs 4/3/3, an insertion and a
    # deletion (3 + 3), which keep B, are cheaper than two substitutions (4 + 4).
    assert word_errors(["A B"], ["B C"]) == WordErrors(2, 0, 0, 2)
    assert gloss_wer(["REGEN SONNE"], ["__ON__ SONNE WIND"]) == WordErrors(0, 1, 1, 2)


@pytest.mark.parametrize("metric", [score, gloss_wer])
def test_no_texts_and_unequal_numbers_are_refused(metric):
    with pytest.raises(MetricError, match="nothing to score"):
        metric([], [])
    with pytest.raises(MetricError, match="2 references but 1 hypotheses"):
        metric(["a", "b"], ["a"])


def test_an_unknown_tokenization_is_refused():
    with pytest.raises(MetricError, match=r"'en'.*'auto', '13a', 'none', 'char', 'zh'"):
        score(["a"], ["a"], tokenize="en")


def test_the_table_has_a_row_per_decoder_and_the_signature():
    scores = score(REFERENCES, HYPOTHESES)
    screen = Console(file=io.StringIO(), width=120)
    screen.print(format_table({"greedy": scores, "beam": scores}, title="synthetic_signs, test"))
    shown = screen.file.getvalue()
    for text in ("greedy", "beam", f"{scores.bleu4:.2f}", f"{scores.wer:.1%}", "tok:13a"):
        assert text in shown


def test_as_dict_has_plain_numbers():
    values = score(REFERENCES, HYPOTHESES).as_dict()
    names = "bleu1 bleu4 chrf rouge_l wer exact_match substitutions insertions deletions examples"
    assert set(values) >= set(names.split())
    assert all(type(value) in (int, float) for value in values.values())


TIMES = ("今天", "明天", "昨天", "早上")
ADVERBS = ("很", "不", "非常", "有点", "太")
THINGS = ("天气", "学校", "工作", "电影", "早饭")
CHINESE = [
    f"{time}的{thing}{adverb}好{end}"
    for time in TIMES
    for adverb in ADVERBS
    for thing in THINGS
    for end in "。吗"
][:200]


@pytest.mark.parametrize("tokenize", ["auto", "char", "zh"])
def test_equal_chinese_texts_score_a_hundred(tokenize):
    scores = score(CHINESE, CHINESE, tokenize=tokenize)
    assert (scores.bleu4, scores.chrf, scores.rouge_l) == pytest.approx((100, 100, 100))
    assert scores.wer == 0 and scores.exact_match == 1
    assert scores.examples == 200 and scores.unit == "character"
    assert f"tok:{'char' if tokenize == 'auto' else tokenize}" in scores.signature


@pytest.mark.parametrize("tokenize", ["auto", "char", "zh"])
def test_a_wrong_chinese_character_is_one_error(tokenize):
    scores = score(CHINESE, [text.replace("的", "得") for text in CHINESE], tokenize=tokenize)
    assert scores.wer == pytest.approx(200 / sum(map(len, CHINESE)))
    assert 40 < scores.bleu4 < 90


@pytest.mark.parametrize("text", ["私は明日学校へ行きます。", "ที่นี่อากาศดีมาก", "ខ្ញុំទៅសាលារៀន"])
def test_scripts_without_spaces_are_scored_by_character(text):
    scores = score([text] * 3, [text] * 3)
    assert scores.bleu4 == pytest.approx(100)
    assert scores.unit == "character" and "tok:char" in scores.signature


def test_auto_is_13a_for_scripts_with_spaces():
    assert score(REFERENCES, HYPOTHESES) == score(REFERENCES, HYPOTHESES, tokenize="13a")
    korean = ["내일 날씨가 맑겠습니다 여러분", "학교에 갑니다"]
    scores = score(korean, korean)
    assert "tok:13a" in scores.signature and scores.reference_words == 6


def test_mixed_text_is_counted_in_words_and_characters():
    assert score(["我用iPhone 打电话"], ["我用iphone 打电话"], tokenize="zh").wer == 1 / 6


@pytest.mark.skipif(importlib.util.find_spec("MeCab") is not None, reason="MeCab is installed")
def test_a_tokenization_that_is_not_installed_names_its_package():
    with pytest.raises(MetricError, match=r"'ja-mecab'.*pip install 'sacrebleu\[ja\]'.*'auto'"):
        score(["私は"], ["私は"], tokenize="ja-mecab")


HINDI = "\u092f\u0939 \u0938\u095c\u0915 \u092c\u0939\u0941\u0924 \u092c\u095c\u0940 \u0939\u0948"
NOT_COMPOSED = {  # texts that NFC changes
    "Hindi with U+095C": HINDI,
    "Vietnamese": unicodedata.normalize("NFD", "Hôm nay trời rất đẹp và nắng"),
    "French": unicodedata.normalize("NFD", "l'été a été très agréable à Orléans"),
}


@pytest.mark.parametrize("language", NOT_COMPOSED)
@pytest.mark.parametrize("lowercase", [False, True])
def test_composed_and_decomposed_accents_are_equal(language, lowercase):
    text = NOT_COMPOSED[language]
    composed = unicodedata.normalize("NFC", text)
    assert text != composed
    for references, hypotheses in (([text], [composed]), ([composed], [text])):
        scores = score(references, hypotheses, lowercase=lowercase)
        assert (scores.bleu4, scores.chrf, scores.rouge_l) == pytest.approx((100, 100, 100))
        assert scores.wer == 0 and scores.exact_match == 1
        assert gloss_wer(references, hypotheses).errors == 0
        assert counted_words(references, scores) == counted_words(hypotheses, scores)


def test_spaces_separate_glosses_in_every_script():
    scores = score(["今天 天气 好"], ["今天 天气 坏"], glosses=True)
    assert (scores.reference_words, scores.substitutions, scores.unit) == (3, 1, "gloss")
    assert score(["今天 天气 好"], ["今天 天气 坏"], tokenize="char", glosses=True) == scores
    assert counted_words(["今天 天气"], scores) == [["今天", "天气"]]


def test_the_table_marks_rows_of_glosses():
    text, glosses = score(REFERENCES, HYPOTHESES), score(["A B"], ["A"], glosses=True)
    assert table_cells({"greedy": text, "ctc": glosses})[1][1][0] == "ctc (glosses)"
    assert unit_notes({"greedy": text, "ctc": glosses}) == [
        "ctc: scored against the glosses of the 1 clips that have them"
    ]
    assert unit_notes({"greedy": text}) == []


def test_the_error_rate_is_named_after_its_unit():
    text, glosses = score(REFERENCES, HYPOTHESES), score(["A B"], ["A"], glosses=True)
    characters = score(CHINESE, CHINESE)
    for scores, name in (
        ({"greedy": text}, "WER"),
        ({"greedy": characters}, "CER"),
        ({"greedy": characters, "ctc": glosses}, "CER/WER"),
    ):
        assert name in table_cells(scores)[0]
