"""What the style sheets inside a page declare for each of its elements, on the screen of a desk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cssselect2
import tinycss2

_WIDTH, _HEIGHT = 1280.0, 800.0  # of that screen, in pixels
_FEATURE = re.compile(r"\(\s*(min|max)-(?:device-)?(width|height)\s*:\s*([\d.]+)(px|em|rem)?\s*\)")
_FALSE = re.compile(
    r"prefers-color-scheme\s*:\s*dark|prefers-reduced|prefers-contrast|forced-colors|orientation\s*:\s*portrait|hover\s*:\s*none"
    r"|pointer\s*:\s*coarse|monochrome|\bdisplay-mode"
)
_OTHER_MEDIA = re.compile(r"(only\s+)?(print|speech|aural|braille|embossed|handheld|projection|tty|tv)\b")
_VARIABLE = re.compile(r"var\(\s*(--[\w-]+)\s*(?:,([^()]*))?\)")
_NESTED = 8  # levels of style rules in style rules

#: Of each selector: the selector, and names with values and whether they are important.
Rule = tuple[str, list[tuple[str, str, bool]]]


class Styles:
    """The declarations of all ``<style>`` elements and ``style`` attributes of a page, by the rules of the cascade.

    Args:
        root: the root element of an lxml tree.
    """

    def __init__(self, root: Any) -> None:
        self._matcher = cssselect2.Matcher()
        for element in root.iter("style"):
            if any(above.tag in ("template", "noscript") for above in element.iterancestors()):
                continue
            if element.get("type", "text/css").strip().lower() == "text/css" and _applies(element.get("media", "")):
                for selectors, declarations in _rules(tinycss2.parse_stylesheet(element.text or "", True, True)):
                    try:
                        compiled = cssselect2.compile_selector_list(selectors)
                    except cssselect2.SelectorError:
                        continue  # as a browser does
                    for selector in compiled:
                        self._matcher.add_selector(selector, declarations)

    def of(self, wrapper: Any, variables: Mapping[str, str]) -> tuple[dict[str, str], Mapping[str, str]]:
        """Property -> value in lower case, of an element by its wrapper, and the variables that hold in it.

        Args:
            variables: those of the element above.
        """
        found: dict[str, tuple[tuple[bool, int], str]] = {}
        own = tinycss2.parse_blocks_contents(wrapper.etree_element.get("style", ""), True, True)
        matched = [rule[-1] for rule in self._matcher.match(wrapper) if rule[-2] is None]  # by specificity, then order
        for order, declarations in enumerate([*matched, list(_declarations(own))]):
            for name, value, important in declarations:
                if name not in found or (important, order) >= found[name][0]:
                    found[name] = (important, order), value
        values = {name: value for name, (_, value) in found.items()}
        if new := {name: value for name, value in values.items() if name.startswith("--")}:
            variables = {**variables, **new}
        return {name: _filled(v, variables) for name, v in values.items() if name not in new}, variables


def _rules(nodes: Sequence[Any], within: str = "", depth: int = 0) -> Iterator[Rule]:
    """The style rules of a sheet, those in conditions that hold and those nested in others as well."""
    for node in nodes:
        if node.type == "qualified-rule":
            selectors = tinycss2.serialize(node.prelude).strip()
            if within:
                selectors = selectors.replace("&", within) if "&" in selectors else f"{within} {selectors}"
            content = tinycss2.parse_blocks_contents(node.content, True, True)
            yield selectors, list(_declarations(content))
            if depth < _NESTED:
                yield from _rules([n for n in content if n.type != "declaration"], f":is({selectors})", depth + 1)
        elif node.type == "at-rule" and node.content is not None and depth < _NESTED and _holds(node):
            content = tinycss2.parse_blocks_contents(node.content, True, True)
            if within:
                yield within, list(_declarations(content))
            yield from _rules([n for n in content if n.type != "declaration"], within, depth + 1)


def _declarations(nodes: Sequence[Any]) -> Iterator[tuple[str, str, bool]]:
    for node in nodes:
        if node.type == "declaration":
            name = node.name if node.name.startswith("--") else node.lower_name
            yield name, tinycss2.serialize(node.value).strip().lower(), node.important


def _holds(rule: Any) -> bool:
    condition = tinycss2.serialize(rule.prelude).lower().strip()
    if rule.lower_at_keyword == "media":
        return _applies(condition)
    if rule.lower_at_keyword == "supports":
        return not condition.startswith("not")
    return rule.lower_at_keyword in ("layer", "container", "scope", "starting-style")


def _applies(media: str) -> bool:
    """Whether a media query holds for the screen; a condition that is not known here counts as one that does."""
    return not media.strip() or any(_query(query.strip()) for query in media.lower().split(","))


def _query(query: str) -> bool:
    if query.startswith("not "):
        return not _query(query[4:].strip())
    if _OTHER_MEDIA.match(query) or _FALSE.search(query):
        return False
    for bound, side, number, unit in _FEATURE.findall(query):
        limit = float(number) * (16 if unit in ("em", "rem") else 1)
        size = _WIDTH if side == "width" else _HEIGHT
        if (size < limit) if bound == "min" else (size > limit):
            return False
    return True


def _filled(value: str, variables: Mapping[str, str]) -> str:
    for _ in range(_NESTED):
        if "var(" not in value or len(value) > 1000:
            break
        value = _VARIABLE.sub(lambda m: variables.get(m[1], (m[2] or "").strip()), value)
    return value
