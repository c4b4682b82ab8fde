"""Tests that languages get a tag by their names, and three-letter codes by their tags."""

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
def test_a_language_gives_a_tag_and_the_tag_a_three_letter_code(language, tag, code):
    assert language_tag(language) == tag
    assert three_letter_code(tag) == code


@pytest.mark.parametrize("text", ["german", "DE", "d", "de_CH", "de-", '"', "de\n"])
def test_a_text_of_another_form_is_not_a_tag(text):
    assert not is_tag(text)


def test_the_model_card_names_the_language_of_the_demo_model():
    assert tag_of_texts(load_model(MODEL)) == "en"
