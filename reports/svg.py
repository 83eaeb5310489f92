"""Vega's SVG made small and fit for a page: inherits fonts and colours, labelled for screen readers, no identifiers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree

from markupsafe import Markup

from reports.figures import clean

Panel = tuple[ElementTree.Element, float, float]
"""A group, its width and its height."""

_DROPPED = {"class", "role", "font-family", "pointer-events", "stroke-miterlimit"}
_DEFAULTS = {"opacity": "1", "stroke-width": "1", "transform": "translate(0,0)"}
_DECIMALS = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_GEOMETRY = {"d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height"}


def panel(vega_svg: str) -> Panel:
    """Read one chart of Vega into a compact group, and its width and height."""
    root = ElementTree.fromstring(vega_svg)
    group = ElementTree.Element("g")
    group.extend([kept for child in root if (kept := _compact(child)) is not None])
    return group, float(root.attrib["width"]), float(root.attrib["height"])


def stacked(panels: Iterable[Panel], key: str, title: str, desc: str) -> Markup:
    """Put charts under each other in one labelled image; ``key`` is unique in the page."""
    image = ElementTree.Element("svg", {"class": "chart", "role": "img", "aria-labelledby": f"{key}-t {key}-d"})
    ElementTree.SubElement(image, "title", {"id": f"{key}-t"}).text = clean(title)
    ElementTree.SubElement(image, "desc", {"id": f"{key}-d"}).text = clean(desc)
    top = widest = 0.0
    for group, width, height in panels:
        if top:
            group.set("transform", f"translate(0,{top:g})")
        image.append(group)
        top += height
        widest = max(widest, width)
    image.set("viewBox", f"0 0 {widest:g} {top:g}")
    return Markup(ElementTree.tostring(image, encoding="unicode"))


def _compact(element: ElementTree.Element) -> ElementTree.Element | None:
    tag = element.tag.rpartition("}")[2]
    children = [kept for child in element if (kept := _compact(child)) is not None]
    if tag == "g" and not children:
        return None
    if element.get("display") == "none" or (tag == "path" and not {"stroke", "fill"}.intersection(element.attrib)):
        return None
    small = ElementTree.Element(
        tag, {name: _rounded(name, value) for name, value in element.items() if _says(name, value)}
    )
    small.text = element.text
    small.extend(children)
    if tag == "g" and len(children) == 1 and not small.attrib:
        return children[0]
    return small


def _says(name: str, value: str) -> bool:
    return not (name in _DROPPED or name.startswith("aria-") or _DEFAULTS.get(name) == value)


def _rounded(name: str, value: str) -> str:
    if name not in _GEOMETRY:
        return value
    return _DECIMALS.sub(lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), value)
