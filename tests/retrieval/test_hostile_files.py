"""Files made to take for ever, links out of the folder, pipes, wrong encodings: the good ones are read, the others named."""

from __future__ import annotations

import os
import sys
import warnings
import zlib
from pathlib import Path

import pytest
from patience import PATIENCE
from pdf_files import pdf_file, stream

from seka_rag.errors import DocumentError
from seka_rag.retrieval import confined
from seka_rag.retrieval.confined import ConfinedParsers
from seka_rag.retrieval.documents import read_documents
from seka_rag.retrieval.parsers.plain import decoded

N = 100_000
BOMBS = {
    "comments": "<!--" * N,
    "open tags": "<a " * N,
    "sections": "<![CDATA[" * N,
    "instructions": "<?" * N,
    "close tags": "</" * N,
    "references": "&" * 4 * N,
    "declarations": "<!" * N,
    "levels": "<div>" * N,
    "formatting": "<b>" * N,
    "attributes": "<a " + "x=1 " * N + ">t",
    "quotes": "<a b='" * N,
    "sheets": "<style>" * N,
    "tables": "<table>" * N,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_page_made_to_take_for_ever_ends_in_time(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.html"
    path.write_text(BOMBS[name], encoding="utf-8")
    try:
        read_documents(path, timeout=60)
    except DocumentError as error:
        assert "a.html" in str(error)


def test_a_bomb_beside_good_files_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    deep = "<div>" * 1500
    rules = "".join(f"{'* ' * 12}.x{i} {{ display: none }}" for i in range(50))
    (tmp_path / "a.html").write_text("<p>before</p>", encoding="utf-8")
    (tmp_path / "b.html").write_text(f"<style>{rules}</style>{deep}<p class='x1 x2 x3'>y", encoding="utf-8")
    (tmp_path / "c.html").write_text("<p>behind</p>", encoding="utf-8")
    named: list[DocumentError] = []
    documents = read_documents(tmp_path, on_error=named.append, timeout=60)
    texts = [d.text for d in documents]
    assert texts[0] == "before"
    assert texts[-1] == "behind"  # a new process reads on
    assert len(texts) + len(named) == 3
    assert all("b.html" in str(error) for error in named), named


def test_a_parser_that_hangs_or_dies_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = confined._START.replace("; serve()", "; import time; time.sleep(600)")
    monkeypatch.setattr(confined, "_START", hang)
    with ConfinedParsers(0.5) as parsers, pytest.raises(DocumentError, match=r"takes longer than 0\.5 seconds"):
        parsers.parse("html.parse_html", b"<p>x", None)
    monkeypatch.setattr(confined, "_START", "import os; os.abort()")
    with ConfinedParsers(PATIENCE) as parsers, pytest.raises(DocumentError, match="ended the process that reads it"):
        parsers.parse("html.parse_html", b"<p>x", None)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_parser_that_takes_all_memory_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # grows only below the limit that the process sets itself
    greedy = confined._START.replace(
        "from seka_rag.retrieval.confined import serve; serve()",
        "import seka_rag.retrieval.confined as c; c._answer = lambda *a: {'text': len('x' * (5 << 30))}; c.serve()",
    )
    monkeypatch.setattr(confined, "_START", greedy)
    with ConfinedParsers(PATIENCE) as parsers, pytest.raises(DocumentError, match="ended the process that reads it"):
        parsers.parse("html.parse_html", b"<p>x", None)


def test_the_parsers_search_the_same_path_and_never_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lxml.py").write_text("raise SystemExit('taken from the folder of documents')", encoding="utf-8")
    (tmp_path / "types.py").write_text("raise SystemExit('taken from the folder of documents')", encoding="utf-8")
    (tmp_path / "a.html").write_text("<p>fine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert read_documents("a.html")[0].text == "fine"


def test_the_process_does_not_load_torch() -> None:
    code = confined._START.replace("serve()", "print('torch' in sys.modules)")
    import subprocess

    package = str(Path(confined.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, package, *filter(None, sys.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


PAGES = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"}


def test_a_compressed_bomb_in_a_pdf(tmp_path: Path) -> None:
    packed = zlib.compress(b"0 0 m\n" * 50_000_000, 9)
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources << >> /Contents 4 0 R >>"
    (tmp_path / "a.pdf").write_bytes(pdf_file({**PAGES, 3: page, 4: stream(packed, b"/Filter /FlateDecode ")}))
    with pytest.raises(DocumentError, match=r"a\.pdf"):
        read_documents(tmp_path / "a.pdf", timeout=20)


def test_a_font_that_writes_half_a_surrogate_pair(tmp_path: Path) -> None:
    cmap = b"begincmap 1 begincodespacerange <00> <FF> endcodespacerange 1 beginbfchar <41> <D83D> endbfchar endcmap"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R >>"
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 6 0 R >>"
    drawn = stream(b"BT /F1 12 Tf 20 100 Td (port 8443 A) Tj ET")
    (tmp_path / "a.pdf").write_bytes(pdf_file({**PAGES, 3: page, 4: drawn, 5: font, 6: stream(cmap)}))
    text = read_documents(tmp_path / "a.pdf")[0].text
    text.encode()
    assert text.startswith("port 8443 ")


# --- what is not the folder's


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("The password is 1234.", encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "more.txt").write_text("also secret", encoding="utf-8")
    inside = tmp_path / "folder"
    inside.mkdir()
    (inside / "good.txt").write_text("The ferry is blue.", encoding="utf-8")
    return inside


def read_and_named(folder: Path) -> tuple[list[str], list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        texts = [d.text for d in read_documents(folder)]
    return texts, [str(w.message) for w in seen]


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
class TestForeign:
    def test_links_out_of_the_folder_are_named_and_not_read(self, folder: Path) -> None:
        (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
        (folder / "up.txt").symlink_to("../secret.txt")
        (folder / "more").symlink_to(folder.parent / "outside")
        texts, named = read_and_named(folder)
        assert texts == ["The ferry is blue."]
        assert [n for n in named if "leads out of the folder" in n] == named
        assert {n.split()[1].rsplit("/", 1)[1] for n in named} == {"link.txt", "up.txt", "more"}

    def test_links_inside_the_folder_are_files_of_it(self, folder: Path) -> None:
        (folder / "also.txt").symlink_to("good.txt")
        assert read_and_named(folder) == (["The ferry is blue."] * 2, [])

    def test_a_folder_that_is_a_link_is_the_folder(self, folder: Path) -> None:
        (folder.parent / "link").symlink_to(folder)
        assert read_and_named(folder.parent / "link") == (["The ferry is blue."], [])

    def test_pipes_sockets_and_devices_are_named_and_not_opened(self, folder: Path) -> None:
        os.mkfifo(folder / "pipe.txt")
        (folder / "null.txt").symlink_to("/dev/zero")
        texts, named = read_and_named(folder)
        assert texts == ["The ferry is blue."]
        assert any("pipe.txt is no regular file" in n for n in named)
        assert any("null.txt leads out of the folder" in n for n in named)

    def test_a_pipe_by_its_name(self, folder: Path) -> None:
        os.mkfifo(folder / "pipe.txt")
        with pytest.raises(DocumentError, match=r"pipe\.txt is no regular file"):
            read_documents(folder / "pipe.txt")

    def test_nothing_but_foreign_files(self, folder: Path) -> None:
        (folder / "good.txt").unlink()
        os.mkfifo(folder / "pipe.txt")
        with pytest.warns(UserWarning, match="skipped"), pytest.raises(DocumentError, match="none of the 1 files"):
            read_documents(folder)


# --- encodings


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Gruß", "cp1252"),
        ("Café ouvert à midi – 5 € l’entrée.", "cp1252"),
        ("Größere Gruppen zahlen die Hälfte, außer montags.", "cp1252"),
        ("“Quoted” text with a dash — and £5.", "cp1252"),
        ("El niño está aquí. ¿Dónde?", "cp1252"),
        ("Vlak odjíždí z nádraží každou hodinu. Děti do šesti let jezdí zdarma, starší platí polovinu ceny.", "cp1250"),
        ("Билет стоит пять рублей. Дети едут бесплатно.", "cp1251"),
        ("Το εισιτήριο κοστίζει πέντε ευρώ. Τα παιδιά ταξιδεύουν δωρεάν.", "cp1253"),
        ("切符は五百円です。子供は無料です。", "shift_jis"),
        ("The fare is 5 euros.", "utf-16"),
        ("The fare is 5 euros.", "utf-8-sig"),
        ("The fare is 5 euros – 6 at night.", "utf-8"),
    ],
)
def test_encodings_are_recognised(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    (document,) = read_documents(path)
    assert document.text == text
    assert ("encoding" in document.metadata) == (not encoding.startswith("utf-8"))


def test_a_page_says_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes('<meta charset="koi8-r"><p>Цена: пять.'.encode("koi8-r"))
    assert read_documents(path)[0].text == "Цена: пять."


def test_what_a_page_says_of_its_encoding_is_read_as_browsers_do(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(b'<meta charset="iso-8859-1"><p>The \x93fare\x94 is \x80 5.')  # means cp1252
    assert read_documents(path)[0].text == "The \u201cfare\u201d is \u20ac 5."
    for name in ("utf-7", "idna", "unicode_escape", "rot13", "none-such"):  # else text is read that nobody sees
        path.write_bytes(b'<meta charset="%s"><p>+ADw-b+AD4- \\x41' % name.encode())
        assert read_documents(path)[0].text == "+ADw-b+AD4- \\x41"


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\xfd", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe\xda" * 20, bytes(range(256)) * 4]
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        decoded(data, None)
