"""Metrics against sacreBLEU called plainly, brute force over all edit scripts, and scores worked out by hand."""

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
    gloss_wer,
    score,
    word_error_rate,
)

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
def cheapest(reference, hypothesis, costs):
    """The edit distance by its recursive definition."""
    if not reference:
        return len(hypothesis) * costs[1]
    if not hypothesis:
        return len(reference) * costs[2]
    return min(
        cheapest(reference[1:], hypothesis[1:], costs) + (reference[0] != hypothesis[0]) * costs[0],
        cheapest(reference, hypothesis[1:], costs) + costs[1],
        cheapest(reference[1:], hypothesis, costs) + costs[2],
    )


@given(words, words, st.sampled_from([(1, 1, 1), (4, 3, 3)]))
def test_alignment_is_as_cheap_as_any_and_spells_both_sides(reference, hypothesis, costs):
    edits = align(reference, hypothesis, costs)
    price = dict(zip(("substitute", "insert", "delete"), costs), match=0)
    assert sum(price[edit.operation] for edit in edits) == cheapest(
        tuple(reference), tuple(hypothesis), costs
    )
    assert [edit.reference for edit in edits if edit.reference is not None] == reference
    assert [edit.hypothesis for edit in edits if edit.hypothesis is not None] == hypothesis
    assert all((edit.reference == edit.hypothesis) == (edit.operation == "match") for edit in edits)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_word_error_rate_is_taken_over_the_corpus(pairs):
    counted = word_error_rate([" ".join(r) for r, _ in pairs], [" ".join(h) for _, h in pairs])
    assert counted.errors == sum(cheapest(tuple(r), tuple(h), (1, 1, 1)) for r, h in pairs)
    assert counted.reference_words == sum(len(r) for r, _ in pairs)
    assert counted.rate == counted.errors / max(counted.reference_words, 1)


def test_kinds_of_errors_are_told_apart():
    counted = word_error_rate(["a b c d", "x", ""], ["a q d", "x y", "z"])
    assert counted == WordErrors(substitutions=1, insertions=2, deletions=1, reference_words=5)
    assert counted.rate == 4 / 5
    assert WordErrors(1, 2, 3, 4) + WordErrors(1, 1, 1, 1) == WordErrors(2, 3, 4, 5)


@pytest.mark.parametrize("tokenize", ["13a", "none", "char"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_and_chrf_are_sacrebleus_at_every_order(tokenize, lowercase):
    scores = score(REFERENCES, HYPOTHESES, tokenize=tokenize, lowercase=lowercase)
    for order in range(1, 5):
        plain = (
            BLEU(tokenize=tokenize, lowercase=lowercase, max_ngram_order=order)
            .corpus_score(HYPOTHESES, [REFERENCES])
            .score
        )
        assert getattr(scores, f"bleu{order}") == pytest.approx(plain, abs=1e-9)
    assert scores.bleu1 > scores.bleu2 > scores.bleu4 > 0
    assert scores.chrf == pytest.approx(
        CHRF(lowercase=lowercase).corpus_score(HYPOTHESES, [REFERENCES]).score
    )
    assert (
        f"case:{'lc' if lowercase else 'mixed'}" in scores.signature
        and f"tok:{tokenize}" in scores.signature
        and "version:" in scores.signature
    )
    assert "nc:6" in scores.chrf_signature


def test_all_right_is_a_hundred_and_all_empty_is_zero():
    right = score(REFERENCES[:2], [f"  {r}\n" for r in REFERENCES[:2]])
    assert (right.bleu4, right.chrf, right.rouge_l) == pytest.approx((100, 100, 100))
    assert right.wer == 0 and right.exact_match == 1
    empty = score(REFERENCES[:2], ["", ""])
    assert (empty.bleu1, empty.bleu4, empty.chrf, empty.rouge_l, empty.exact_match) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert empty.wer == 1 and empty.deletions == empty.reference_words


def test_empty_references_neither_crash_nor_score():
    scores = score(["", ""], ["", "three false words"])
    assert (
        scores.exact_match == 0.5
        and scores.insertions == 3
        and scores.wer == 3
        and scores.bleu4 == 0
    )
    assert score([""], [""]).exact_match == 1


def test_lowercase_holds_for_every_metric():
    loud = score(["Rain In The North"], ["rain in the north"])
    quiet = score(["Rain In The North"], ["rain in the north"], lowercase=True)
    assert loud.exact_match == 0 and loud.wer == 1 and loud.bleu1 == 0 and loud.rouge_l == 0
    assert (
        quiet.exact_match == 1
        and quiet.wer == 0
        and quiet.bleu4 == pytest.approx(100)
        and quiet.rouge_l == 100
    )


def test_characters_are_the_words_of_chinese():
    scores = score(["明天 天气 很好"], ["明天天气不好"], tokenize="char")
    assert scores.reference_words == 6 and scores.substitutions == 1 and scores.wer == 1 / 6


@given(words, words)
def test_common_subsequence_equals_its_recursive_definition(a, b):
    @functools.cache
    def longest(i, j):
        if i == len(a) or j == len(b):
            return 0
        return (
            1 + longest(i + 1, j + 1) if a[i] == b[j] else max(longest(i + 1, j), longest(i, j + 1))
        )

    assert metrics._common_subsequence(a, b) == longest(0, 0)


def test_rouge_l_is_the_papers_formula_meant_over_sentences():
    # LCS "a c" of 2; precision 2/2, recall 2/3, beta 1.2. The second pair shares nothing.
    first = (1 + 1.44) * 1.0 * (2 / 3) / ((2 / 3) + 1.44 * 1.0)
    assert score(["a b c", "d"], ["a c", "e"]).rouge_l == pytest.approx(100 * first / 2)


def test_confusions_name_what_was_swapped_left_out_and_put_in():
    pairs = [
        ("rain today", "snow today"),
        ("rain now", "snow now"),
        ("sun", "sun shines"),
        ("the end", "end"),
    ]
    counted = confusions(
        align(reference.split(), hypothesis.split()) for reference, hypothesis in pairs
    )
    assert counted == {("rain", "snow"): 2, (None, "shines"): 1, ("the", None): 1}


@pytest.mark.parametrize("tokenize", ["13a", "none", "char"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_a_signature_tells_which_words_were_counted(tokenize, lowercase):
    scores = score(REFERENCES, HYPOTHESES, tokenize=tokenize, lowercase=lowercase)
    errors = metrics.count_errors(
        *(metrics.counted_words(texts, scores) for texts in (REFERENCES, HYPOTHESES))
    )
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


def test_gloss_costs_prefer_an_insertion_and_a_deletion_to_two_substitutions():
    # Unit costs see two substitutions; at 4/3/3 keeping B and paying 3 + 3 is cheaper than 4 + 4.
    assert word_error_rate(["A B"], ["B C"]) == WordErrors(2, 0, 0, 2)
    assert gloss_wer(["REGEN SONNE"], ["__ON__ SONNE WIND"]) == WordErrors(0, 1, 1, 2)


def test_nothing_to_score_and_unequal_numbers_are_errors_not_a_silent_hundred_percent():
    with pytest.raises(MetricError, match="nothing to score"):
        score([], [])
    with pytest.raises(MetricError, match="2 references but 1 hypotheses"):
        word_error_rate(["a", "b"], ["a"])
    with pytest.raises(MetricError, match=r"'en'.*'auto', '13a', 'none', 'char', 'zh'"):
        score(["a"], ["a"], tokenize="en")


def test_table_shows_a_row_per_decoder_and_the_signature():
    scores = score(REFERENCES, HYPOTHESES)
    screen = Console(file=io.StringIO(), width=120)
    screen.print(
        metrics.format_table({"greedy": scores, "beam": scores}, title="synthetic_signs, test")
    )
    shown = screen.file.getvalue()
    assert (
        "greedy" in shown
        and "beam" in shown
        and f"{scores.bleu4:.2f}" in shown
        and f"{scores.wer:.1%}" in shown
    )
    assert "tok:13a" in shown


def test_as_dict_holds_plain_numbers():
    values = score(REFERENCES, HYPOTHESES).as_dict()
    assert set(values) >= {
        "bleu1",
        "bleu4",
        "chrf",
        "rouge_l",
        "wer",
        "exact_match",
        "substitutions",
        "insertions",
        "deletions",
        "examples",
    }
    assert all(type(value) in (int, float) for value in values.values())


TIMES, ADVERBS, THINGS = (
    ("今天", "明天", "昨天", "早上"),
    ("很", "不", "非常", "有点", "太"),
    ("天气", "学校", "工作", "电影", "早饭"),
)
CHINESE = [
    f"{time}的{thing}{adverb}好{end}"
    for time in TIMES
    for adverb in ADVERBS
    for thing in THINGS
    for end in "。吗"
][:200]


@pytest.mark.parametrize("tokenize", ["auto", "char", "zh"])
def test_perfect_chinese_scores_a_hundred_and_one_wrong_character_costs_one(tokenize):
    right = score(CHINESE, CHINESE, tokenize=tokenize)
    assert (right.bleu4, right.chrf, right.rouge_l) == pytest.approx((100, 100, 100))
    assert (
        right.wer == 0
        and right.exact_match == 1
        and right.examples == 200
        and right.unit == "character"
    )
    wrong = score(CHINESE, [text.replace("的", "得") for text in CHINESE], tokenize=tokenize)
    assert wrong.wer == pytest.approx(200 / sum(map(len, CHINESE))) and 40 < wrong.bleu4 < 90
    assert f"tok:{'char' if tokenize == 'auto' else tokenize}" in right.signature


@pytest.mark.parametrize("text", ["私は明日学校へ行きます。", "ที่นี่อากาศดีมาก", "ខ្ញុំទៅសាលារៀន"])
def test_other_scripts_without_spaces_are_scored_by_character_too(text):
    scores = score([text] * 3, [text] * 3)
    assert (
        scores.bleu4 == pytest.approx(100)
        and scores.unit == "character"
        and "tok:char" in scores.signature
    )


def test_auto_is_13a_where_words_stand_between_spaces():
    assert score(REFERENCES, HYPOTHESES) == score(REFERENCES, HYPOTHESES, tokenize="13a")
    korean = ["내일 날씨가 맑겠습니다 여러분", "학교에 갑니다"]
    assert (
        "tok:13a" in score(korean, korean).signature and score(korean, korean).reference_words == 6
    )


def test_words_of_mixed_text_are_counted_as_words_and_characters():
    assert score(["我用iPhone 打电话"], ["我用iphone 打电话"], tokenize="zh").wer == 1 / 6


@pytest.mark.skipif(importlib.util.find_spec("MeCab") is not None, reason="MeCab is installed")
def test_a_tokenization_that_is_not_installed_says_what_to_install():
    with pytest.raises(MetricError, match=r"'ja-mecab'.*pip install 'sacrebleu\[ja\]'.*'auto'"):
        score(["私は"], ["私は"], tokenize="ja-mecab")


TYPED = {
    "Hindi with U+095C": "\u092f\u0939 \u0938\u095c\u0915 \u092c\u0939\u0941\u0924 \u092c\u095c\u0940 \u0939\u0948",
    "Vietnamese": unicodedata.normalize("NFD", "Hôm nay trời rất đẹp và nắng"),
    "French": unicodedata.normalize("NFD", "l'été a été très agréable à Orléans"),
}


@pytest.mark.parametrize("script", TYPED)
@pytest.mark.parametrize("lowercase", [False, True])
def test_how_an_accent_was_typed_is_no_error(script, lowercase):
    typed, said = TYPED[script], unicodedata.normalize("NFC", TYPED[script])
    assert typed != said
    for references, hypotheses in (([typed], [said]), ([said], [typed])):
        scores = score(references, hypotheses, lowercase=lowercase)
        assert (scores.bleu4, scores.chrf, scores.rouge_l) == pytest.approx((100, 100, 100))
        assert scores.wer == 0 and scores.exact_match == 1
        assert (
            word_error_rate(references, hypotheses).errors
            == gloss_wer(references, hypotheses).errors
            == 0
        )
        words = [metrics.counted_words(texts, scores) for texts in (references, hypotheses)]
        assert words[0] == words[1]


def test_glosses_are_set_apart_by_spaces_in_every_script():
    scores = score(["今天 天气 好"], ["今天 天气 坏"], glosses=True)
    assert (scores.reference_words, scores.substitutions, scores.unit) == (3, 1, "gloss")
    assert score(["今天 天气 好"], ["今天 天气 坏"], tokenize="char", glosses=True) == scores
    assert metrics.counted_words(["今天 天气"], scores) == [["今天", "天气"]]


def test_the_table_says_what_a_row_is_about():
    text, glosses = score(REFERENCES, HYPOTHESES), score(["A B"], ["A"], glosses=True)
    characters = score(CHINESE, CHINESE)
    assert metrics.table_cells({"greedy": text, "ctc": glosses})[1][1][0] == "ctc (glosses)"
    assert metrics.unit_notes({"greedy": text, "ctc": glosses}) == [
        "ctc: scored against the glosses of the 1 clips that have them"
    ]
    for scores, name in (
        ({"greedy": text}, "WER"),
        ({"greedy": characters}, "CER"),
        ({"greedy": characters, "ctc": glosses}, "CER/WER"),
    ):
        assert name in metrics.table_cells(scores)[0]
    assert metrics.unit_notes({"greedy": text}) == []
