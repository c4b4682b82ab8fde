"""HTML kit of the reports: self-contained pages that run no script and load nothing.

The style is inline, images are data URIs, and the content-security policy of a page forbids
everything else. Functions return HTML; `text` makes HTML of untrusted text.
"""

import base64
import html
import io
import unicodedata
from collections.abc import Sequence

from PIL import Image


def page(title: str, sections: Sequence[str], style: str = "") -> str:
    """A page. `title` is text, `sections` are HTML, `style` is CSS after the shared one."""
    body = "\n".join(sections)
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta http-equiv=Content-Security-Policy content="{_POLICY}">
<title>{text(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def header(title: str, subtitle: str) -> str:
    """The top of a page; both are HTML."""
    return f"<header><h1>{title}</h1><p class=soft>{subtitle}</p></header>"


def section(title: str, body: str, note: str = "") -> str:
    """A section with a heading; all three are HTML."""
    return f"<section><h2>{title}</h2>{paragraph(note) if note else ''}{body}</section>"


def paragraph(body: str, kind: str = "soft") -> str:
    """A paragraph of HTML; `kind` is its class."""
    return f"<p class={kind}>{body}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table that scrolls sideways where the page is narrower. `columns` are text, cells are HTML.

    `kind`: "numbers" aligns to the right and never wraps, "text" aligns to the left and wraps. The
    first cell of a row is its header.
    """
    head = "".join(f"<th scope=col>{text(cell)}</th>" for cell in columns)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>" + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        # Focusable, so that it can be scrolled by keyboard.
        "<div class=scroll tabindex=0>"
        f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def image(source: Image.Image, format: str = "JPEG", attributes: str = 'alt=""') -> str:
    """An image as a data URI, encoded as `format` ("JPEG" or "PNG"); `attributes` is HTML."""
    file = io.BytesIO()
    source.save(file, format, quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img {attributes} src="data:image/{format.lower()};base64,{data}">'


def text(value: object) -> str:
    """Text that cannot become markup.

    Characters that HTML forbids or no file can hold become the replacement character.
    """
    return html.escape(
        "".join(
            character
            if character in "\t\n" or unicodedata.category(character) not in ("Cc", "Cs")
            else "\ufffd"
            for character in str(value)
        )
    )


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c1f24; --paper: #fdfdfc; --soft: #6b7280; --line: #e3e5e8;
  --accent: #2563a8; --tint: #2563a81f; --bad: #b3261e; --good: #1d7a46; --shadow: #0003;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e7e9; --paper: #15171a; --soft: #9aa1ab; --line: #2b2f35;
    --accent: #6ea8e2; --tint: #6ea8e233; --bad: #ff8a80; --good: #7fd3a0; --shadow: #fff3;
  }
}
body {
  margin: 3rem auto; max-width: 62rem; padding: 0 1.25rem;
  font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; font-weight: 650; margin: 0; }
h2 { font-size: 1.15rem; margin: 3rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1rem 0 .5rem; }
.soft, figcaption, dt { color: var(--soft); font-weight: 400; }
.bad { color: var(--bad); }
/* A shadow on the side where the table goes on: the first two layers, which scroll, cover it. */
.scroll {
  overflow-x: auto;
  background:
    linear-gradient(90deg, var(--paper) 40%, transparent) 0 0 / 2.5rem 100% no-repeat local,
    linear-gradient(270deg, var(--paper) 40%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
    linear-gradient(90deg, var(--shadow), transparent) 0 0 / 1rem 100% no-repeat scroll,
    linear-gradient(270deg, var(--shadow), transparent) 100% 0 / 1rem 100% no-repeat scroll;
}
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td {
  padding: .3rem 1.1rem .3rem 0; border-bottom: 1px solid var(--line);
  text-align: right; vertical-align: top; white-space: nowrap;
}
th { font-weight: 500; color: var(--soft); }
tbody th { font-weight: 400; color: inherit; }
th:first-child, td:first-child { text-align: left; }
.text th, .text td { text-align: left; white-space: normal; overflow-wrap: break-word; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
article h3 { margin-top: 0; }
dl { display: grid; grid-template-columns: fit-content(40%) minmax(0, 1fr); gap: .2rem 1.2rem; }
dl, dd { margin: 0; }
figure { margin: 1rem 0 0; }
figcaption { font-size: .85rem; margin-bottom: .25rem; }
.sheet { display: block; max-width: 100%; margin-top: .8rem; border-radius: 4px; }
.sheet + dl { margin-top: .6rem; }
"""
