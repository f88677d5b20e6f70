"""Reading real files: every kind, and every way in which one can be unreadable."""

import os
import sys
from io import BytesIO
from pathlib import Path

import pytest
from pdf_files import pdf_file

from seka_rag.errors import DocumentError, SekaError
from seka_rag.retrieval.documents import Document, read_documents


def pdf_bytes(*pages: str) -> bytes:
    """A minimal PDF with one line of text on each page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {len(objects) + 2} 0 R >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    return pdf_file({i: body.encode() for i, body in enumerate(objects, 1)})


def encrypted(data: bytes, password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(BytesIO(data)))
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def read_one(path: Path, **options: str) -> Document:
    (document,) = read_documents(path, **options)  # type: ignore[arg-type]
    return document


def test_text_with_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffGrüße\r\naus Köln\rheute".encode())
    document = read_one(path)
    assert document.text == "Grüße\naus Köln\nheute"
    assert document.source == path.as_posix()


@pytest.mark.parametrize("fence", ["---", "+++"])
def test_markdown_loses_its_front_matter_only(tmp_path: Path, fence: str) -> None:
    path = tmp_path / "a.MD"
    path.write_text(f"{fence}\ntitle: x\n{fence}\n\n# Head\n\n**bold** 2**10\n\n---\n\nend\n", encoding="utf-8")
    assert read_one(path).text == "# Head\n\n**bold** 2**10\n\n---\n\nend\n"


@pytest.mark.parametrize(
    "text", ["---\nno end of it", "text\n---\nmore\n---\n", "----\na\n----\n", "---\n\n# A\n\n---\n\nend\n"]
)
def test_what_is_not_front_matter_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.md"
    path.write_text(text, encoding="utf-8")
    assert read_one(path).text == text


def test_html_is_what_a_reader_sees(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        "<!doctype html><html><head><title> My\n page </title><style>p{color:red}</style></head><body>"
        "<script>alert('x')</script><!-- secret --><h1>Head</h1><p>One <b>bold</b>\nword.<p>Two<br>lines &amp; more"
        "<div hidden>unseen</div><ul><li>a</li><li>b</li></ul><pre>x\n  y</pre><table><tr><td>1</td><td>2</td></tr>"
        "</table></body></html>",
        encoding="utf-8",
    )
    document = read_one(path)
    assert document.text == "Head\n\nOne bold word.\n\nTwo\nlines & more\n\na\n\nb\n\nx\n  y\n\n1 2"
    assert document.metadata == {"title": "My page"}


def test_deeply_nested_html(tmp_path: Path) -> None:
    path = tmp_path / "a.htm"
    path.write_text("<div>" * 1500 + "deep" + "</div>" * 1500, encoding="utf-8")
    assert read_one(path).text == "deep"
    path.write_text("<div>" * 100_000 + "deep" + "</div>" * 100_000, encoding="utf-8")
    with pytest.raises(DocumentError, match=r"a\.htm is nested too deeply"):
        read_documents(path)


def test_pdf_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_bytes("Ada moved to Lyon.", "Boris stayed."))
    document = read_one(path)
    assert document.text == "Ada moved to Lyon.\nBoris stayed."
    assert document.metadata == {"pages": 2, "page_starts": (0, 19)}
    assert document.text[19:] == "Boris stayed."


def test_pdf_with_empty_password_opens_and_with_a_real_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(encrypted(pdf_bytes("Ada moved."), ""))
    assert read_one(path).text == "Ada moved."
    path.write_bytes(encrypted(pdf_bytes("Ada moved."), "secret"))
    with pytest.raises(DocumentError, match=r"a\.pdf is protected by a password"):
        read_documents(path)


@pytest.mark.parametrize("data", [b"", b"no pdf at all", b"%PDF-1.4\n%%EOF", pdf_bytes("x")[:200]])
def test_damaged_pdf(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    with pytest.raises(DocumentError, match=r"a\.pdf is not a readable PDF"):
        read_documents(path)


def test_scanned_pdf(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_bytes("", ""))
    with pytest.raises(DocumentError, match=r"a\.pdf has no text.*OCR"):
        read_documents(path)


@pytest.mark.parametrize(
    ("data", "offset", "guess"),
    [("Gruß".encode("latin-1"), 3, "latin-1"), ("Gruß".encode("utf-16"), 0, "utf-16")],
)
def test_other_encodings_are_named_and_can_be_given(tmp_path: Path, data: bytes, offset: int, guess: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(
        DocumentError, match=rf"a\.txt is not utf-8: byte 0x\w\w at offset {offset}.*encoding='{guess}'"
    ):
        read_documents(path, encoding="utf-8")
    assert read_one(path, encoding=guess).text == "Gruß"


def test_unknown_encoding_and_policy(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DocumentError, match="encoding='klingon' is unknown"):
        read_documents(tmp_path, encoding="klingon")
    with pytest.raises(DocumentError, match="choose 'raise' or 'skip'"):
        read_documents(tmp_path, on_error="ignore")  # type: ignore[arg-type]


def test_folder_is_read_in_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a.txt", "a/b/c.html", ".git/x.txt", ".hidden.md", "data.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"in {name}", encoding="utf-8")
    sources = [Path(d.source or "").relative_to(tmp_path).as_posix() for d in read_documents(tmp_path)]
    assert sources == ["a/b/c.html", "a/z.md", "a.txt", "b.txt"]


def test_source_is_the_path_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert [d.source for d in read_documents("docs")] == ["docs/a.txt"]


def test_skip_warns_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "b.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("fine", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"a\.txt"):
        read_documents(tmp_path)
    with pytest.warns(UserWarning, match="skipped: ") as seen:
        documents = read_documents(tmp_path, on_error="skip")
    assert [d.text for d in documents] == ["fine"]
    assert len(seen) == 2
    (tmp_path / "c.txt").unlink()
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(DocumentError, match="none of the 2 files"):
        read_documents(tmp_path, on_error="skip")


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "does not exist"), ("empty", "no file that can be read"), ("a.docx", "unknown kind '.docx'")],
)
def test_nothing_to_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(SekaError, match=message):
        read_documents(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs file permissions that bind this user")
def test_forbidden_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x", encoding="utf-8")
    path.chmod(0)
    with pytest.raises(DocumentError, match=r"cannot open .*a\.txt"):
        read_documents(path)


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(DocumentError, match=r"cannot open .*a\.txt"):
        read_documents(tmp_path)
