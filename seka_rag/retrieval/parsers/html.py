"""A page as a reader sees it: without what is hidden, and with its blocks as paragraphs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cssselect2
import webencodings
from lxml import etree

from seka_rag.errors import DocumentError
from seka_rag.retrieval.parsers.css import Styles
from seka_rag.retrieval.parsers.plain import decoded
from seka_rag.retrieval.parsers.sight import Sight

_UNSEEN = frozenset(
    """head script style noscript template iframe noembed noframes object embed applet canvas audio video datalist rp
    annotation annotation-xml desc metadata""".split()
)
_BLOCKS = frozenset(
    """address article aside blockquote body dd details dialog div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5
    h6 header hr legend li main menu nav ol optgroup option p pre search section summary table tr ul""".split()
)
_KEEPS_LINES = frozenset("pre textarea listing xmp plaintext".split())
_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{2,40})", re.IGNORECASE)
#: White space of preformatted text, while that of the rest is put in order. These are no characters.
_KEPT = {" ": "\ufdd0", "\n": "\ufdd1", "\t": "\ufdd2"}


def parse_html(data: bytes, encoding: str | None) -> tuple[str, dict[str, object]]:
    """The text of a page without scripts, comments and whatever a reader does not see.

    Not seen is what elements, attributes and the style sheets inside the page hide; sheets elsewhere are not fetched, and
    scripts do not run.

    Raises:
        DocumentError: elements nested too deeply to be read, or no text of the encoding.
    """
    declared = _DECLARED.search(data[:2048])
    known = (
        webencodings.lookup(declared[1].decode()) if declared else None
    )  # by the names that browsers know, as they do
    text, metadata = decoded(data, encoding, known.codec_info.name if known else None)
    text = re.sub("[\ufdd0-\ufdd2]", "", text)
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    root = etree.fromstring(text.encode("utf-8", "replace"), parser) if text.strip() else None
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise DocumentError("is nested too deeply: a page for readers has far fewer levels")
    if root is None:
        return "", metadata
    title = root.find(".//title")
    if title is not None and (name := " ".join("".join(title.itertext()).split())):
        metadata["title"] = name
    return _in_order("".join(_visible(root))), metadata


def _in_order(text: str) -> str:
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]+", " ", text))
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    text = re.sub(
        "(?<=\n)\ufdd1|\ufdd1+(?=\n)|^\ufdd1|\ufdd1+$", "", text
    )  # line ends beside <pre> and </pre> are of the source
    for plain, kept in _KEPT.items():
        text = text.replace(kept, plain)
    return text


@dataclass(frozen=True)
class _Place:
    """What an element passes on to what is in it."""

    sight: Sight
    variables: Mapping[str, str]
    keeps_lines: bool = False
    only: str | None = None  # the one child that is seen


def _visible(root: Any) -> list[str]:
    """The text of a page in order, with line breaks at blocks. A stack: pages may nest deeper than Python."""
    styles, out = Styles(root), []
    linked = any("stylesheet" in link.get("rel", "").lower() for link in root.iter("link"))
    sight = Sight(ground=None) if linked else Sight()  # sheets that were not fetched may set a ground
    stack: list[Any] = [(cssselect2.ElementWrapper.from_html_root(root), _Place(sight, {}))]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            out.append(item)
            continue
        wrapper, above = item
        element = wrapper.etree_element
        style, variables = styles.of(wrapper, above.variables)
        place = _entered(element, style, replace(above, variables=variables))
        if place is None:
            continue
        if element.tag == "br":
            out.append("\n")
        border = "\n\n" if element.tag in _BLOCKS else " " if element.tag in ("td", "th") else ""
        stack.append(border)
        seen = False
        parts: list[Any] = [border, _shown(element.text, place)]
        for child in wrapper.iter_children():
            if place.only is None or (not seen and child.etree_element.tag == place.only):
                parts.append((child, replace(place, only=None)))
                seen = True
            parts.append(_shown(child.etree_element.tail, place))
        stack += reversed(parts)
    return out


def _shown(text: str | None, place: _Place) -> str:
    if not text or place.only is not None or not place.sight.is_clear:
        return ""
    if place.keeps_lines:
        return "".join(_KEPT.get(c, c) for c in text)
    return re.sub(r"\s+", " ", text)


def _entered(element: Any, style: Mapping[str, str], above: _Place) -> _Place | None:
    """The place inside an element, or None if nothing of it is seen."""
    name, attributes = element.tag, element.attrib
    if not isinstance(name, str) or name in _UNSEEN or "hidden" in attributes or "popover" in attributes:
        return None
    if attributes.get("aria-hidden", "").strip().lower() == "true" or (name == "dialog" and "open" not in attributes):
        return None
    sight = above.sight.inside(name, dict(attributes), style)
    if sight is None:
        return None
    only = "summary" if name == "details" and "open" not in attributes else None
    return replace(above, sight=sight, keeps_lines=above.keeps_lines or name in _KEEPS_LINES, only=only)
