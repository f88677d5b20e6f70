"""Whether text with these declarations of CSS can be seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tinycss2.color4 import Color, parse_color

_LENGTH = re.compile(r"(-?(?:\d+\.?\d*|\.\d+))(px|em|rem|pt|pc|in|cm|mm|ex|ch|vw|vh|vmin|vmax|%)?")
_PIXELS = {
    "px": 1, "": 1, "pt": 4 / 3, "pc": 16, "in": 96, "cm": 37.8, "mm": 3.78, "em": 16, "rem": 16, "ex": 8, "ch": 8,
    "vw": 12.8, "vh": 8, "vmin": 8, "vmax": 12.8, "%": 12.8,
}  # fmt: skip
_AWAY = 500.0  # pixels beyond the left or upper edge: nobody sees what is there
_FAR = 5000.0  # pixels to the right or below, where a fixed or absolute place is out of the page
_SMALL = 2.0  # pixels that no letter can be read in
_FAINT = 0.05  # opacity, and difference of colours, that no eye tells from none
_CLIPPED = re.compile(
    r"rect\(\s*(?:0|1)(?:px)?[\s,]+(?:0|1)(?:px)?[\s,]+(?:0|1)(?:px)?[\s,]+(?:0|1)(?:px)?\s*\)|inset\(\s*(?:[5-9]\d|100)(?:\.\d+)?%"
    r"|(?:circle|ellipse)\(\s*0|polygon\(\s*0(?:px|%)?\s+0(?:px|%)?\s*(?:,\s*0(?:px|%)?\s+0(?:px|%)?\s*)*\)"
)
_MOVED = re.compile(r"translate(?:x|y|3d)?\(([^)]*)\)")
_FLAT = re.compile(r"scale(?:x|y|3d)?\(\s*(?:0*\.0*)?0*\s*[,)]")
_OPACITY = re.compile(r"opacity\(\s*([\d.]+)(%?)\s*\)")
_SIZES = {
    "xx-small": 9, "x-small": 10, "small": 13, "medium": 16, "large": 18, "x-large": 24, "xx-large": 32, "xxx-large": 48,
}  # fmt: skip
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Sight:
    """What text inherits that decides whether it is seen.

    Attributes:
        visible: ``visibility``.
        size: of its letters, in pixels.
        color, opaque: its colour, None if that is not known, and whether that colour covers anything.
        ground: the colour behind it, None if that is not known, as of a picture.
        indented: its lines begin out of sight.
    """

    visible: bool = True
    size: float = 16.0
    color: RGB | None = (0.0, 0.0, 0.0)
    opaque: bool = True
    ground: RGB | None = (1.0, 1.0, 1.0)
    indented: bool = False

    @property
    def is_clear(self) -> bool:
        """Whether text right here can be read."""
        if not self.visible or self.size < _SMALL or not self.opaque or self.indented:
            return False
        if self.color is None or self.ground is None:
            return True
        return max(abs(a - b) for a, b in zip(self.color, self.ground, strict=True)) > _FAINT

    def inside(self, name: str, attributes: Mapping[str, str], style: Mapping[str, str]) -> Sight | None:
        """What text in an element inherits, or None if nothing of the element is seen, whatever is in it."""
        if _is_gone(style):
            return None
        visibility = style.get("visibility", "")
        visible = self.visible if visibility in ("", "inherit") else visibility not in ("hidden", "collapse")
        color, opaque = self._color(name, attributes, style)
        indent = style.get("text-indent")
        pixels = None if indent is None else _pixels(indent)
        indented = self.indented if pixels is None else pixels <= -_AWAY or pixels >= 12.8 * 100
        return Sight(visible, self._size(style), color, opaque, self._ground(attributes, style), indented)

    def _size(self, style: Mapping[str, str]) -> float:
        value = style.get("font-size") or style.get("font", "").split("/")[0]
        if style.get("zoom", "") in ("0", "0%", "0.0"):
            return 0.0
        for word in value.split():
            if word in _SIZES:
                return float(_SIZES[word])
            if word in ("smaller", "larger"):
                return self.size * (0.8 if word == "smaller" else 1.2)
            found = _LENGTH.fullmatch(word)
            if found and (found[2] or float(found[1]) == 0):  # a bare number in `font` is a weight
                relative = {"em": 1.0, "%": 0.01, "ex": 0.5, "ch": 0.5}.get(found[2] or "")
                return float(found[1]) * (self.size * relative if relative else _PIXELS[found[2] or ""])
        return self.size

    def _color(self, name: str, attributes: Mapping[str, str], style: Mapping[str, str]) -> tuple[RGB | None, bool]:
        given = attributes.get("color") if name == "font" else attributes.get("text") if name == "body" else None
        value = style.get("-webkit-text-fill-color") or style.get("color") or given
        if value is None and name == "a" and "href" in attributes:
            return (0.0, 0.0, 0.93), True
        if value is None or value in ("inherit", "currentcolor", "unset", "revert"):
            return self.color, self.opaque
        rgb, alpha = _rgb(value)
        return rgb, alpha > _FAINT

    def _ground(self, attributes: Mapping[str, str], style: Mapping[str, str]) -> RGB | None:
        image = style.get("background-image", "") + style.get("background", "")
        if "url(" in image or "gradient(" in image or "background" in attributes:
            return None
        values = [style.get("background-color"), *style.get("background", "").split(), attributes.get("bgcolor")]
        for value in values:
            rgb, alpha = _rgb(value) if value else (None, 0.0)
            if rgb is not None and alpha > _FAINT:
                return rgb if alpha > 0.95 else None
        return self.ground


def _is_gone(style: Mapping[str, str]) -> bool:
    """Whether an element is taken out of sight with all that is in it."""
    if style.get("display") == "none" or style.get("content-visibility") == "hidden":
        return True
    opacity = _LENGTH.fullmatch(style.get("opacity", ""))
    if opacity and float(opacity[1]) * (0.01 if opacity[2] == "%" else 1) <= _FAINT:
        return True
    faded = _OPACITY.search(style.get("filter", ""))
    if faded and float(faded[1]) * (0.01 if faded[2] else 1) <= _FAINT:
        return True
    if _CLIPPED.search(style.get("clip-path", "")) or (_placed(style) and _CLIPPED.search(style.get("clip", ""))):
        return True
    transform = (
        f"{style.get('transform', '')} scale({style.get('scale', '1')}) translate({style.get('translate', '0')})"
    )
    moves = [part for move in _MOVED.findall(transform) for part in re.split(r"[\s,]+", move)]
    if _FLAT.search(transform) or any(map(_is_away, moves)):
        return True
    overflow = " ".join(style.get(f"overflow{axis}", "") for axis in ("", "-x", "-y"))
    if "hidden" in overflow or "clip" in overflow:
        sizes = (_pixels(style.get(f"{limit}{side}", "")) for limit in ("", "max-") for side in ("width", "height"))
        if any(size is not None and size < _SMALL for size in sizes):
            return True
    margins = [style.get("margin-left", ""), style.get("margin-top", ""), *style.get("margin", "").split()]
    if any(_is_away(value) for value in margins if not value.endswith("%")):  # columns are set with such
        return True
    edges = [style.get(edge, "") for edge in ("left", "top", "right", "bottom", "inset", "inset-inline-start")]
    return _placed(style) and any(_is_away(v) or _is_far(v) for edge in edges for v in edge.split())


def _placed(style: Mapping[str, str]) -> bool:
    return style.get("position", "static") in ("absolute", "fixed", "relative", "sticky")


def _is_away(value: str) -> bool:
    """Beyond an edge, in pixels or by all of a width; by half of it things are centred."""
    found = _LENGTH.fullmatch(value.strip())
    if found is None:
        return False
    relative = found[2] in ("%", "vw", "vh", "vmin", "vmax")
    return float(found[1]) <= -100 if relative else float(found[1]) * _PIXELS[found[2] or ""] <= -_AWAY


def _is_far(value: str) -> bool:
    pixels = _pixels(value)
    return pixels is not None and pixels >= _FAR


def _pixels(value: str) -> float | None:
    found = _LENGTH.fullmatch(value.strip())
    return None if found is None else float(found[1]) * _PIXELS[found[2] or ""]


def _rgb(value: str) -> tuple[RGB | None, float]:
    """A colour and how opaque it is; None for one that is not known."""
    try:
        color = parse_color(value)
        if isinstance(color, Color):
            r, g, b = color.to("srgb").coordinates
            return (r, g, b), float(color.alpha)
    except (ValueError, NotImplementedError, TypeError):
        pass
    return None, 1.0
