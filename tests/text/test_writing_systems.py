"""Tests of splitting texts into words or characters, according to their writing system."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signvit_jax.text.writing_systems import (
    has_unspaced,
    join_texts,
    join_units,
    mostly_unspaced,
    pieces,
    units,
)

CHARACTERS = {
    "今天天气": ["今", "天", "天", "气"],
    "コーヒーをのむ": list("コーヒーをのむ"),
    "ที่นี่": ["ที่", "นี่"],  # a letter with its vowel and tone marks is one unit
    "ພາສາລາວ": ["ພ", "າ", "ສ", "າ", "ລ", "າ", "ວ"],
    "བོད་ཡིག": ["བོ", "ད", "་", "ཡི", "ག"],
    "葛\U000e0100城": ["葛\U000e0100", "城"],
}
SPACED = [
    "the weather is fine",
    "한국어는 띄어 쓴다",
    "नमस्ते दुनिया",
    "Tiếng Việt có dấu cách",
    "мама спит",
    "مرحبا بالعالم",
]
MIXED = [
    "我用iPhone 打电话，好 yes",
    "สวัสดี ครับ",
    "OK，yes 好",
    "第3章 hello",
    "3月 14日",
    " 你好 ",
    "。",
    "",
]


@pytest.mark.parametrize("text", CHARACTERS)
def test_scripts_without_spaces_are_split_by_character(text):
    assert units(text) == CHARACTERS[text]
    assert has_unspaced(text) and mostly_unspaced([text])
    assert join_units(units(text)) == text


@pytest.mark.parametrize("text", SPACED)
def test_scripts_with_spaces_are_split_at_spaces(text):
    assert units(text) == text.split()
    assert not has_unspaced(text) and not mostly_unspaced([text])
    assert join_units(units(text)) == text


def test_mixed_text_has_words_and_characters():
    assert units("我用iPhone 打电话，好 yes") == [
        "我",
        "用",
        "iPhone",
        "打",
        "电",
        "话",
        "，",
        "好",
        "yes",
    ]
    assert join_units(["我", "用", "good", "luck", "吧"]) == "我用good luck吧"


@pytest.mark.parametrize("text", [*CHARACTERS, *SPACED, *MIXED])
def test_pieces_give_the_text_back(text):
    assert "".join(pieces(text)).strip() == " ".join(text.split())


@given(st.text(st.sampled_from("ab 今天ที่ー，。,.\u3000\u200b\u0301한")))
def test_pieces_of_any_text_give_it_back(text):
    assert "".join(pieces(text)).strip() == " ".join(text.split())
    assert all(units(text))


def test_joined_texts_get_spaces_only_where_the_script_has_them():
    assert join_texts(["今天", "很好。", "", "明天 见"]) == "今天很好。明天 见"
    assert join_texts(["good", "luck to", "you"]) == "good luck to you"
    assert join_texts(["我用", "iPhone", "打电话"]) == "我用 iPhone打电话"


def test_glosses_are_split_at_spaces_in_every_script():
    assert units("今天 天气 好", by_spaces=True) == ["今天", "天气", "好"]
    assert "".join(pieces("今天 天气", by_spaces=True)).strip() == "今天 天气"


def test_the_script_of_most_units_decides():
    assert mostly_unspaced(["我用iPhone打电话", "今天很好"])
    assert not mostly_unspaced(["the sign 天 means sky", "a second sentence"])
    assert not mostly_unspaced(["", "123 !"])
