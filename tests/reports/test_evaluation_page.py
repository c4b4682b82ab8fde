"""The evaluation page, parsed: its contents, and texts of an evaluation that look like markup."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from lxml import html
from PIL import Image

from signvit_jax.evaluation.metrics import score
from signvit_jax.evaluation.results import Prediction, Results, ResultsError
from signvit_jax.evaluation.scored_clips import (
    ClipImages,
    HeatMap,
    main_decoder,
    score_clips,
    worst_and_best,
)
from signvit_jax.reports.evaluation_page import render, write_report

REFERENCES = [
    "rain in the north",
    "sun",
    "my friend goes to school today",
    "rain tomorrow",
    "snow in the south",
]
GREEDY = [
    "snow in the north",
    "sun",
    "my friend to school",
    "snow tomorrow morning",
    "snow in the south",
]
BEAM = [
    "rain in the north",
    "sun",
    "my friend goes school today",
    "snow tomorrow",
    "snow in the south",
]


def make_results(references, **decoders):
    predictions = tuple(
        Prediction(
            f"clip-{i}",
            reference,
            {name: texts[i] for name, texts in decoders.items()},
            score=-0.5 * i,
        )
        for i, reference in enumerate(references)
    )
    return Results(
        "test",
        "synthetic_signs",
        1200,
        {name: score(references, texts) for name, texts in decoders.items()},
        predictions,
    )


def section(page, title):
    """Return the first section of the page with this title."""
    return next(element for element in page.iter("section") if element.find("h2").text == title)


def rows(section):
    """Return the texts of the cells of a section's table, row by row, without the header."""
    return [[cell.text_content() for cell in row] for row in section.iter("tr")][1:]


@pytest.fixture
def results():
    return make_results(REFERENCES, greedy=GREEDY, beam=BEAM)


def test_errors_are_shown_by_signer():
    results = make_results(REFERENCES, greedy=GREEDY, beam=BEAM)
    signers = ("<ann>", "<ann>", "ben", "ben", "ben")
    predictions = tuple(
        dataclasses.replace(prediction, details={"groups": {"signer": signer}})
        for prediction, signer in zip(results.predictions, signers)
    )
    page = html.fromstring(render(dataclasses.replace(results, predictions=predictions)))
    (table,) = page.xpath("//section[h2='Error by signer']//table")
    rows = [[cell.text_content() for cell in row] for row in table.xpath(".//tr")]
    assert rows[0] == ["signer", "clips", "greedy", "beam"]
    assert [row[:2] for row in rows[1:]] == [["ben", "3"], ["<ann>", "2"]]
    assert "Error by signer" not in render(results)


def test_scores_are_shown_per_decoder_with_their_signature(results):
    page = html.fromstring(render(results))
    shown = rows(section(page, "Scores"))
    assert [row[0] for row in shown] == ["greedy", "beam"]
    beam = results.decoders["beam"]
    assert f"{beam.bleu4:.2f}" in shown[1] and f"{beam.wer:.1%}" in shown[1]
    assert beam.signature in section(page, "Scores").text_content()
    assert "step 1,200" in page.text_content()


def test_the_first_decoder_is_shown_even_if_another_has_fewer_errors(results):
    assert results.decoders["greedy"].wer > results.decoders["beam"].wer
    assert main_decoder(results) == "greedy"
    assert "of the decoder greedy" in html.fromstring(render(results)).text_content()
    with pytest.raises(ResultsError, match="no decoder"):
        render(dataclasses.replace(results, decoders={}))


def test_a_gloss_decoder_is_scored_by_sign_not_against_the_text():
    spelled = ["RAIN NORTH", "SUN", "FRIEND SCHOOL", "RAIN", "SNOW SOUTH"]
    signed = ["RAIN NORTH", "SUN", "FRIEND SCHOOL GO", "SNOW", "SNOW SOUTH"]
    results = make_results(REFERENCES, greedy=GREEDY, ctc=spelled)
    predictions = tuple(
        dataclasses.replace(prediction, details={"gloss": gloss})
        for prediction, gloss in zip(results.predictions, signed)
    )
    scores = results.decoders | {"ctc": score(signed, spelled, glosses=True)}
    results = dataclasses.replace(
        results, decoders=scores, predictions=predictions, gloss_decoders=("ctc",)
    )
    assert scores["ctc"].wer < scores["greedy"].wer and main_decoder(results) == "greedy"
    page = html.fromstring(render(results))
    assert [row[:3] for row in rows(section(page, "Error by sign"))] == [
        ["GO", "1", "1"],
        ["SNOW", "2", "1"],
    ]
    assert rows(section(page, "Most confused signs")) == [["GO", "∅", "1"], ["SNOW", "RAIN", "1"]]
    without_glosses = html.fromstring(render(make_results(REFERENCES, greedy=GREEDY)))
    assert not without_glosses.xpath("//h2[text()='Error by sign']")


def test_worst_and_best_clips_are_ordered_and_distinct(results):
    def ids(clips):
        return [clip.prediction.id for clip in clips]

    worst, best = worst_and_best(score_clips(results), "greedy", count=2)
    assert ids(worst) == ["clip-3", "clip-2"]  # 2 of 2 words are wrong, and 2 of 6
    assert ids(best) == ["clip-4", "clip-1"]  # both are right; the longer clip comes first
    worst, best = worst_and_best(score_clips(results), "greedy", count=9)
    assert sorted(ids(worst) + ids(best)) == [f"clip-{i}" for i in range(5)]
    page = html.fromstring(render(results))
    shown = [
        article.find("h3").text.strip() for article in section(page, "Worst clips").iter("article")
    ]
    assert shown == ["clip-3", "clip-2", "clip-0"]


def test_errors_by_length_are_divided_by_the_words_of_the_bin(results):
    page = html.fromstring(render(results))
    assert rows(section(page, "Error by sentence length")) == [
        ["0–3", "2", f"{2 / 3:.1%}", f"{1 / 3:.1%}"],
        ["4–6", "3", f"{3 / 14:.1%}", f"{1 / 14:.1%}"],
    ]


def test_confused_and_missed_words_are_counted():
    page = html.fromstring(render(make_results(REFERENCES, greedy=GREEDY)))
    assert rows(section(page, "Most confused words"))[0] == ["rain", "snow", "2"]
    assert ["∅", "morning", "1"] in rows(section(page, "Most confused words"))
    assert rows(section(page, "Error by word"))[0] == ["rain", "2", "2", "100.0%"]


def test_differences_are_marked_in_the_hypotheses():
    page = html.fromstring(render(make_results(["a b c"], greedy=["a x c d"])))
    hypothesis = page.xpath("//section[h2='Worst clips']//dd")[1]
    assert [(mark.tag, mark.text) for mark in hypothesis] == [("mark", "x"), ("ins", "d")]
    assert hypothesis.text_content() == "a x c d"
    page = html.fromstring(render(make_results(["a b"], greedy=["a"])))
    deleted = [element.text for element in section(page, "Worst clips").iter("del")]
    assert deleted == ["b"]


def test_images_are_data_uris_of_the_right_size(results):
    frames = np.random.default_rng(0).integers(0, 255, (40, 30, 60, 3), dtype=np.uint8)
    alignment = HeatMap(
        "CTC alignment", ["rain", "<sun>"], np.array([[0.0, 1.0, np.nan], [2.0, 0.5, 0.0]])
    )
    images = {"clip-3": ClipImages(frames, [alignment]), "unknown": ClipImages(frames)}
    page = html.fromstring(render(results, images))
    sheet, heat_map = (
        Image.open(io.BytesIO(base64.b64decode(img.get("src").split(",")[1])))
        for img in page.iter("img")
    )
    assert sheet.size == (8 * 224, 2 * 112)
    assert heat_map.size == (3, 2)
    assert np.asarray(heat_map)[..., 3].tolist() == [[0, 255, 0], [255, 128, 0]]
    assert [span.text for span in page.xpath("//div[@class='map']//span")] == ["rain", "<sun>"]


def test_no_text_of_an_evaluation_becomes_markup():
    hostile = "<script>alert(1)</script> \"'><img src=http://example.org/x onerror=y> & \x00\ud800"
    results = Results(
        "<i>t</i>",
        hostile,
        1,
        {hostile: score([hostile], ["x"])},
        (Prediction(hostile, hostile, {hostile: hostile + " more"}, details={}),),
    )
    heat_map = HeatMap(hostile, [hostile], np.ones((1, 2)))
    text = render(results, {hostile: ClipImages(np.zeros((2, 4, 4, 3), np.uint8), [heat_map])})
    text.encode("utf-8")
    page = html.fromstring(text)
    assert not page.xpath("//script | //link | //iframe | //object | //i")
    assert len(page.xpath("//style")) == 1
    assert all(img.get("src").startswith("data:image/") for img in page.iter("img"))
    assert len(section(page, "Worst clips").xpath(".//img")) == 2
    attributes = {name for element in page.iter() for name in element.attrib}
    assert "href" not in attributes
    assert not any(name.startswith("on") for name in attributes)
    assert "\x00" not in text
    assert page.xpath("//h3")[0].text.startswith("<script>alert(1)</script>")


def test_a_split_without_errors_says_so():
    text = html.fromstring(render(make_results(["sun"], greedy=["sun"]))).text_content()
    for message in ("No clip has an error.", "No word was confused.", "No word was missed."):
        assert message in text


def test_characters_are_compared_where_scores_count_them():
    references, hypotheses = ["明天很好"], ["明天不好"]
    prediction = Prediction("clip", references[0], {"greedy": hypotheses[0]})
    results = Results(
        "test",
        "csl_daily",
        1,
        {"greedy": score(references, hypotheses, tokenize="char")},
        (prediction,),
    )
    assert rows(section(html.fromstring(render(results)), "Most confused characters")) == [
        ["很", "不", "1"]
    ]
    text = html.fromstring(render(results)).text_content()
    assert "CER 25%" in text and "1 of 4 characters" in text and "WER" not in text
    assert "明天不好" in text  # the page adds no spaces between characters


def test_a_clip_without_a_gloss_is_not_scored_against_glosses():
    results = make_results(
        ["rain", "sun", "snow"], greedy=["rain", "sun", "snow"], ctc=["RAIN", "SUN", "RAIN SNOW"]
    )
    first, *others = results.predictions
    predictions = (dataclasses.replace(first, details={"gloss": "RAIN"}), *others)
    scores = {"ctc": score(["RAIN"], ["RAIN"], glosses=True), "greedy": results.decoders["greedy"]}
    for names in (("ctc", "greedy"), ("greedy", "ctc")):
        found = dataclasses.replace(
            results,
            decoders={name: scores[name] for name in names},
            predictions=predictions,
            gloss_decoders=("ctc",),
        )
        assert [clip.errors("ctc").errors for clip in score_clips(found)] == [0, 0, 0]
        page = html.fromstring(render(found))
        text = page.text_content()
        assert "No sign was missed." in text and "ctc (glosses)" in text
        assert "the glosses of the 1 clips that have them" in text
    assert worst_and_best(score_clips(found), "ctc") == ([], score_clips(found)[:1])


def test_unknown_characters_are_listed_below_the_scores(results):
    page = html.fromstring(render(dataclasses.replace(results, unknown={"z": 3, "ß": 1})))
    text = section(page, "Scores").text_content()
    assert "4 characters are not in the vocabulary" in text and "'z' (3), 'ß' (1)" in text


def test_the_phoenix_gloss_error_rate_is_below_the_scores(results):
    page = html.fromstring(render(dataclasses.replace(results, phoenix_gloss_wer={"ctc": 0.234})))
    text = section(page, "Scores").text_content()
    assert "gloss error rate by PHOENIX's rules 23.4%" in text


def test_the_page_is_written_into_a_new_folder(results, tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_report(results, path)
    assert path.read_text(encoding="utf-8") == render(results)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_page_begins_with_scores_and_the_first_clips(results):
    frames = np.full((20, 30, 30, 3), 9, np.uint8)
    page = html.fromstring(render(results, {"clip-0": ClipImages(frames)}))
    titles = [heading.text for heading in page.iter("h2")]
    assert titles[:4] == ["Scores", "First clips", "Worst clips", "Best clips"]
    first = section(page, "First clips")
    shown = [article.xpath(".//dd")[0].text_content() for article in first.iter("article")]
    assert shown == REFERENCES[:3]
    data = next(first.iter("img")).get("src").split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8 * 112, 112)


def test_the_first_cell_of_a_row_is_its_header(results):
    page = html.fromstring(render(results))
    headers = [row.find("th").get("scope") for row in page.xpath("//tbody/tr")]
    assert headers and set(headers) == {"row"}
