"""Tests of the HTML of reports: no scripts, no loading, no markup in texts, scrolling tables."""

import base64
import io

import numpy as np
from lxml import html
from PIL import Image

from signvit_jax.reports.html_kit import image, page, section, table, text

HOSTILE = "<script>alert(1)</script> \"'><img src=http://example.org/x onerror=y> & \x00\ud800"


def test_text_cannot_become_markup():
    # In an attribute and in an element.
    element = html.fromstring(f"<p title='{text(HOSTILE)}'>{text(HOSTILE)}</p>")
    # HTML cannot hold a NUL or a lone surrogate; the replacement character stands for them.
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert len(element) == 0  # no child elements
    assert element.text == element.get("title") == shown


def test_a_page_forbids_scripts_and_loads_nothing():
    document = html.fromstring(page(HOSTILE, [section("A", "<p>body</p>")], ".own { margin: 0 }"))
    policy = document.xpath("//meta[@http-equiv='Content-Security-Policy']")[0].get("content")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not document.xpath("//script | //link | //img")
    assert document.findtext(".//title").startswith("<script>")  # as text
    (style,) = document.xpath("//style")
    assert style.text.rstrip().endswith(".own { margin: 0 }") and "url(" not in style.text


def test_a_wide_table_scrolls_in_a_box_of_its_own():
    document = html.fromstring(page("t", [section("A", table(["x"], [["1"]]))]))
    (found,) = document.iter("table")
    assert found.getparent().get("class") == "scroll"
    assert ".scroll {\n  overflow-x: auto;" in document.findtext(".//style")


def test_headers_of_a_table_are_text_and_cells_may_be_markup():
    found = html.fromstring(table(["<b>", "n"], [["<i>cell</i>", "1"]], "text"))
    headers = list(found.find(".//thead").iter("th"))
    assert [th.text for th in headers] == ["<b>", "n"]
    assert {th.get("scope") for th in headers} == {"col"}  # screen readers need it
    assert found.find("table").get("class") == "text"
    assert found.findtext(".//tbody//th/i") == "cell"


def test_images_are_data_uris_of_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    found = html.fromstring(image(Image.fromarray(pixels), "PNG", 'class=sheet alt="<"'))
    kind, data = found.get("src").split(",")
    assert kind == "data:image/png;base64" and found.get("alt") == "<"
    assert np.array_equal(Image.open(io.BytesIO(base64.b64decode(data))), pixels)
