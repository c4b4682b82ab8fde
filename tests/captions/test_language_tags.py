"""Tests of languages by name, tag and three-letter code."""

import pytest

from signvit_jax.captions.language_tags import UNKNOWN, is_tag, language_tag, three_letter_code
from signvit_jax.demo.packaged import MODEL
from signvit_jax.exporting.model_card import tag_of_texts
from signvit_jax.inference.loading import load_model


@pytest.mark.parametrize(
    ("language", "tag", "code"),
    [
        ("German", "de", "deu"),
        (" chinese ", "zh", "zho"),
        ("de-CH", "de-CH", "deu"),
        ("fi", "fi", "fin"),
        ("gsw", "gsw", "gsw"),
        ("xx", "xx", UNKNOWN),
        ("Klingon", "", UNKNOWN),
        ("", "", UNKNOWN),
    ],
)
def test_a_language_has_a_tag_and_a_code_of_mp4_files(language, tag, code):
    assert language_tag(language) == tag and three_letter_code(tag) == code


@pytest.mark.parametrize("text", ["german", "DE", "d", "de_CH", "de-", '"', "de\n"])
def test_other_texts_are_no_tags(text):
    assert not is_tag(text)


def test_the_model_card_names_the_language_of_the_texts():
    assert tag_of_texts(load_model(MODEL)) == "en"
