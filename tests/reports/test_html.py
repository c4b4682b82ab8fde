"""The HTML of reports, parsed: no scripts or links, text without markup, tables that scroll."""

import base64
import io

import numpy as np
from lxml import html
from PIL import Image

from signvit_jax.reports.html_kit import image, page, section, table, text

HOSTILE = "<script>alert(1)</script> \"'><img src=http://example.org/x onerror=y> & \x00\ud800"


def test_text_cannot_become_markup():
    element = html.fromstring(f"<p title='{text(HOSTILE)}'>{text(HOSTILE)}</p>")
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert len(element) == 0
    assert element.text == element.get("title") == shown


def test_a_page_forbids_scripts_and_loads_nothing():
    document = html.fromstring(page(HOSTILE, [section("A", "<p>body</p>")], ".own { margin: 0 }"))
    policy = document.xpath("//meta[@http-equiv='Content-Security-Policy']")[0].get("content")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not document.xpath("//script | //link | //img")
    assert document.findtext(".//title").startswith("<script>")
    (style,) = document.xpath("//style")
    assert style.text.rstrip().endswith(".own { margin: 0 }") and "url(" not in style.text


def test_every_table_scrolls_in_its_own_box():
    document = html.fromstring(page("t", [section("A", table(["x"], [["1"]]))]))
    (found,) = document.iter("table")
    assert found.getparent().get("class") == "scroll"
    assert ".scroll {\n  overflow-x: auto;" in document.findtext(".//style")


def test_column_headers_are_text_and_have_a_scope():
    found = html.fromstring(table(["<b>", "n"], [["<i>cell</i>", "1"]], "text"))
    headers = list(found.find(".//thead").iter("th"))
    assert [th.text for th in headers] == ["<b>", "n"]
    assert {th.get("scope") for th in headers} == {"col"}
    assert found.find("table").get("class") == "text"
    assert found.findtext(".//tbody//th/i") == "cell"


def test_images_are_data_uris_of_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    found = html.fromstring(image(Image.fromarray(pixels), "PNG", 'class=sheet alt="<"'))
    kind, data = found.get("src").split(",")
    assert kind == "data:image/png;base64" and found.get("alt") == "<"
    assert np.array_equal(Image.open(io.BytesIO(base64.b64decode(data))), pixels)
