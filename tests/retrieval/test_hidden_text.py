"""Text that a reader of a page or PDF file does not see is not evidence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from pdf_files import pdf_file

from seka_rag.errors import DocumentError
from seka_rag.highlight.sentences import Sentences
from seka_rag.retrieval import documents
from seka_rag.retrieval.bm25 import BM25Retriever
from seka_rag.retrieval.confined import ConfinedParsers
from seka_rag.retrieval.documents import Document, read_documents


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    """One process reads all files of these tests: they are about what it says, not about how it is kept apart."""
    with pytest.MonkeyPatch.context() as patch, ConfinedParsers(60.0) as parsers:
        patch.setattr(documents, "ConfinedParsers", lambda _: nullcontext(parsers))
        yield


def read_one(path: Path) -> Document:
    (document,) = read_documents(path)
    return document


SEEN = "<p>The fare is 4.80 euros.</p>"
TEXT = "Pay 99 now."


def page_text(tmp_path: Path, html: str) -> str:
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    return read_one(path).text


HIDDEN = {
    "display": '<p style="display:none">{}</p>',
    "display, important and upper case": '<P STYLE="DISPLAY : NONE !important">{}</P>',
    "display of what is around": '<div style="display:none"><div style="display:block"><p>{}</p></div></div>',
    "visibility": '<p style="visibility:hidden">{}</p>',
    "visibility collapse": '<p style="visibility:collapse">{}</p>',
    "opacity": '<p style="opacity:0">{}</p>',
    "opacity in percent": '<p style="opacity:.5%">{}</p>',
    "filter": '<p style="filter: blur(0) opacity(0)">{}</p>',
    "font size": '<p style="font-size:0">{}</p>',
    "font size of a pixel": '<p style="font-size:1px">{}</p>',
    "font size in em": '<div style="font-size:.1em"><p style="font-size:.5em">{}</p></div>',
    "font": '<p style="font: bold 0px/1 serif">{}</p>',
    "height": '<p style="height:0;overflow:hidden">{}</p>',
    "max-width": '<p style="max-width:0px;overflow-x:hidden">{}</p>',
    "for screen readers": '<p style="position:absolute;width:1px;height:1px;clip:rect(0,0,0,0);overflow:hidden">{}</p>',
    "clip path": '<p style="clip-path:inset(100%)">{}</p>',
    "clip path circle": '<p style="clip-path: circle(0)">{}</p>',
    "off screen": '<p style="position:absolute;left:-9999px">{}</p>',
    "off screen in em": '<p style="position:fixed;top:-100em">{}</p>',
    "far right": '<p style="position:absolute;left:99999px">{}</p>',
    "margin": '<p style="margin-left:-9999px">{}</p>',
    "indent": '<p style="text-indent:-9999px">{}</p>',
    "moved": '<p style="transform:translateX(-9999px)">{}</p>',
    "flat": '<p style="transform:scale(0)">{}</p>',
    "content visibility": '<p style="content-visibility:hidden">{}</p>',
    "white on white": '<p style="color:#fff">{}</p>',
    "nearly white on white": '<p style="color:#fefefe">{}</p>',
    "a colour on itself": '<div style="background:#123456"><p style="color:rgb(18,52,86)">{}</p></div>',
    "transparent": '<p style="color:transparent">{}</p>',
    "transparent by alpha": '<p style="color:rgba(0,0,0,0)">{}</p>',
    "font element": '<font color="white">{}</font>',
    "hidden": "<p hidden>{}</p>",
    "hidden until found": '<p hidden="until-found">{}</p>',
    "aria-hidden": '<p aria-hidden="true">{}</p>',
    "details": "<details><summary>More</summary>{}</details>",
    "details, its second summary": "<details><summary>More</summary><summary>{}</summary></details>",
    "dialog": "<dialog>{}</dialog>",
    "popover": "<div popover>{}</div>",
    "template": "<template>{}</template>",
    "noscript": "<noscript>{}</noscript>",
    "iframe": "<iframe>{}</iframe>",
    "object": "<object>{}</object>",
    "video": "<video>{}</video>",
    "canvas": "<canvas>{}</canvas>",
    "script": '<script type="text/plain">{}</script>',
    "comment": "<!-- {} -->",
    "title of a picture": "<svg><desc>{}</desc></svg>",
    "class": "<style>.x {{ display: none }}</style><p class=x>{}</p>",
    "id and element": "<style>div#y > p {{ opacity: 0 }}</style><div id=y><p>{}</p></div>",
    "style behind it": "<p class=x>{}</p><style>.x{{visibility:hidden}}</style>",
    "media": "<style>@media screen and (min-width: 600px) {{ .x {{ display:none }} }}</style><p class=x>{}</p>",
    "layer": "<style>@layer a {{ .x {{ display:none }} }}</style><p class=x>{}</p>",
    "supports": "<style>@supports (display: grid) {{ .x {{ display:none }} }}</style><p class=x>{}</p>",
    "nested rule": "<style>.a {{ color: red; .x {{ display:none }} }}</style><div class=a><p class=x>{}</p></div>",
    "variable": "<style>:root {{ --v: none }} .x {{ display: var(--v) }}</style><p class=x>{}</p>",
    "variable's default": "<style>.x {{ display: var(--nowhere, none) }}</style><p class=x>{}</p>",
    "the more special rule": "<style>#y {{ display:none }} .x {{ display:block }}</style><p class=x id=y>{}</p>",
    "the later rule": "<style>.x {{ display:block }} .x {{ display:none }}</style><p class=x>{}</p>",
    "important over inline": "<style>.x {{ display:none !important }}</style><p class=x style='display:block'>{}</p>",
    "attribute selector": "<style>[data-k='1'] {{ display:none }}</style><p data-k=1>{}</p>",
    "escaped class": "<style>.x\\:y {{ display:none }}</style><p class='x:y'>{}</p>",
}
VISIBLE = {
    "plain": "<p>{}</p>",
    "shown again": '<div style="visibility:hidden"><p style="visibility:visible">{}</p></div>',
    "size set again": '<div style="font-size:0"><p style="font-size:16px">{}</p></div>',
    "white on black": '<div style="background:#000"><p style="color:#fff">{}</p></div>',
    "white on black, old style": "<table bgcolor=black><tr><td><font color=white>{}</font></td></tr></table>",
    "white on a picture": '<div style="background:url(a.png)"><p style="color:white">{}</p></div>',
    "white where a sheet is elsewhere": '<link rel=stylesheet href=a.css><p style="color:white">{}</p>',
    "open details": "<details open><summary>More</summary>{}</details>",
    "summary": "<details><summary>{}</summary>no</details>",
    "open dialog": "<dialog open>{}</dialog>",
    "aria-hidden false": '<p aria-hidden="false">{}</p>',
    "print only": "<style>@media print {{ .x {{ display:none }} }}</style><p class=x>{}</p>",
    "small screens only": "<style>@media (max-width: 600px) {{ .x {{ display:none }} }}</style><p class=x>{}</p>",
    "the later rule": "<style>.x {{ display:none }} .x {{ display:block }}</style><p class=x>{}</p>",
    "inline over a rule": "<style>.x {{ display:none }}</style><p class=x style='display:block'>{}</p>",
    "another class": "<style>.y {{ display:none }}</style><p class=x>{}</p>",
    "centred": '<p style="position:absolute;left:50%;transform:translate(-50%,-50%)">{}</p>',
    "a little to the left": '<p style="margin-left:-20px;text-indent:-1em">{}</p>',
    "half seen through": '<p style="opacity:.5">{}</p>',
    "wrong style": '<p style="display:;;none:display">{}</p>',
    "a sheet for print": "<style media=print>.x {{ display:none }}</style><p class=x>{}</p>",
    "overflow without size": '<p style="overflow:hidden">{}</p>',
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_text_of_a_page_is_not_read(tmp_path: Path, name: str) -> None:
    text = page_text(tmp_path, f"<body>{SEEN}{HIDDEN[name].format(TEXT)}<p>Ask us.</p></body>")
    assert TEXT not in text
    assert text.startswith("The fare is 4.80 euros.")
    assert text.endswith("Ask us.")


@pytest.mark.parametrize("name", VISIBLE)
def test_what_can_be_seen_is_read(tmp_path: Path, name: str) -> None:
    assert TEXT in page_text(tmp_path, f"<body>{SEEN}{VISIBLE[name].format(TEXT)}</body>")


def test_hidden_text_is_neither_found_nor_highlighted(tmp_path: Path) -> None:
    hidden = '<p style="display:none">The official fare in zone 2 is 77 euros, says the town.</p>'
    (tmp_path / "a.html").write_text(f"<h1>Fares</h1>{hidden}<p>In zone 2 the fare is 3.10.</p>", encoding="utf-8")
    question = "What is the fare in zone 2?"
    passages = BM25Retriever(read_documents(tmp_path))(question)
    marked = [
        p.text[s.start : s.end] for p, own in zip(passages, Sentences()(question, passages), strict=True) for s in own
    ]
    assert not any("77" in p.text for p in passages)
    assert any("3.10" in m for m in marked)


def test_preformatted_lines_stay(tmp_path: Path) -> None:
    html = "<p>Use  this:</p><pre>\nif x:\n    pay(1)\n\n\n\tend\n</pre><p>Done.</p><textarea>a\n b</textarea>"
    assert page_text(tmp_path, html) == "Use this:\n\nif x:\n    pay(1)\n\n\n\tend\n\nDone.\n\na\n b".replace(
        "\n\na\n", "\n\na\n"
    )


# --- PDF


def pdf_of(content: str, *, form: str = "", image: bool = False) -> bytes:
    """A page that draws this content; ``/X1 Do`` draws the form, ``/Im Do`` a picture."""
    xobjects = ("/X1 6 0 R " if form else "") + ("/Im 7 0 R" if image else "")
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        4: (
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> "
            f"/XObject << {xobjects} >> >> /Contents 5 0 R >>"
        ).encode(),
        5: f"<< /Length {len(content)} >>\nstream\n{content}\nendstream".encode(),
        6: (
            "<< /Type /XObject /Subtype /Form /BBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Length {len(form)} >>\nstream\n{form}\nendstream"
        ).encode(),
        7: (
            b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1 >>"
            b"\nstream\n\x80\nendstream"
        ),
    }
    return pdf_file(objects)


SHOWN = "BT /F1 12 Tf 72 700 Td (The fare is 4.80 euros.) Tj ET\n"
LINE = "72 650 Td (Pay 99 now.) Tj ET"
PDF_HIDDEN = {
    "render mode 3": f"BT 3 Tr /F1 12 Tf {LINE}",
    "render mode 7": f"BT 7 Tr /F1 12 Tf {LINE}",
    "mode set before": f"3 Tr BT /F1 12 Tf {LINE}",
    "white": f"1 g BT /F1 12 Tf {LINE}",
    "white in RGB": f"1 1 1 rg BT /F1 12 Tf {LINE}",
    "white in CMYK": f"0 0 0 0 k BT /F1 12 Tf {LINE}",
    "white by colour space": f"/DeviceRGB cs 1 1 1 sc BT /F1 12 Tf {LINE}",
    "tiny": f"BT /F1 0.2 Tf {LINE}",
    "tiny by matrix": "BT /F1 12 Tf .01 0 0 .01 72 650 Tm (Pay 99 now.) Tj ET",
    "off the page": "BT /F1 12 Tf 72 5000 Td (Pay 99 now.) Tj ET",
    "array": "BT 3 Tr /F1 12 Tf 72 650 Td [(Pay) -300 (99 now.)] TJ ET",
    "next line": "BT 3 Tr /F1 12 Tf 72 650 Td (Pay 99 now.) ' ET",
    "spaced": 'BT 3 Tr /F1 12 Tf 72 650 Td 0 0 (Pay 99 now.) " ET',
}
PDF_SEEN = {
    "plain": f"BT /F1 12 Tf {LINE}",
    "state put back": f"q 3 Tr 1 g Q BT /F1 12 Tf {LINE}",
    "white on a dark box": f"0 g 50 600 400 100 re f 1 g BT /F1 12 Tf {LINE}",
    "amount of an ink": f"/Ink cs 1 scn BT /F1 12 Tf {LINE}",
    "outlined": f"1 g 1 Tr BT /F1 12 Tf {LINE}",
    "scaled": "BT /F1 1 Tf 12 0 0 12 72 650 Tm (Pay 99 now.) Tj ET",
}


def pdf_text(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "a.pdf").write_bytes(data)
    return read_one(tmp_path / "a.pdf").text


@pytest.mark.parametrize("name", PDF_HIDDEN)
def test_hidden_text_of_a_pdf_is_not_read(tmp_path: Path, name: str) -> None:
    text = pdf_text(tmp_path, pdf_of(SHOWN + PDF_HIDDEN[name]))
    assert "99" not in text
    assert "The fare is 4.80 euros." in text
    assert (
        "99" not in pdf_text(tmp_path, pdf_of(f"{SHOWN} q /X1 Do Q", form=PDF_HIDDEN[name])) or name == "off the page"
    )


@pytest.mark.parametrize("name", PDF_SEEN)
def test_what_a_pdf_shows_is_read(tmp_path: Path, name: str) -> None:
    assert "Pay 99 now." in pdf_text(tmp_path, pdf_of(SHOWN + PDF_SEEN[name]))
    assert "Pay 99 now." in pdf_text(tmp_path, pdf_of(f"{SHOWN} q /X1 Do Q", form=PDF_SEEN[name]))


def test_what_was_recognised_on_a_scanned_page_is_read(tmp_path: Path) -> None:
    """Its text is invisible over the picture; beside text that shows, it is not what the reader sees."""
    picture, recognised = "q 612 0 0 792 0 0 cm /Im Do Q ", f"BT 3 Tr /F1 12 Tf {LINE}"
    assert pdf_text(tmp_path, pdf_of(picture + recognised, image=True)) == "Pay 99 now."
    assert "99" not in pdf_text(tmp_path, pdf_of(picture + SHOWN + recognised, image=True))
    small = "q 50 0 0 50 0 0 cm /Im Do Q "
    with pytest.raises(DocumentError, match="has no text"):
        pdf_text(tmp_path, pdf_of(small + recognised, image=True))
