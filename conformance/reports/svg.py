"""A chart as inline SVG: as wide as its place, readable in dark and light, its values on hovering."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import vl_convert

_NS = "http://www.w3.org/2000/svg"
_DROPPED = ("font-family", "role", "aria-roledescription", "class", "pointer-events")


def svg(spec: dict[str, Any], title: str, description: str) -> str:
    """Render a Vega-Lite specification, named by ``title``; ``description`` says in words what the chart shows.

    Marks keep their ``aria-label`` and show it as a tooltip. The page supplies the fonts and,
    through CSS variables, the colours. The text comes out of an XML serialiser, hence escaped.
    """
    version = ".".join(spec["$schema"].rpartition("/v")[2].split(".")[:2])
    root = ET.fromstring(vl_convert.vegalite_to_svg(spec, vl_version=version))
    for element in root.iter():
        _settle(element)
    _drop_invisible(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": title})
    told = ET.Element(f"{{{_NS}}}desc")
    told.text = description
    root.insert(0, told)
    ET.register_namespace("", _NS)
    return ET.tostring(root, encoding="unicode").replace(f' xmlns="{_NS}"', "", 1)


def _settle(element: ET.Element) -> None:
    """Leave the fonts to the page and give a mark its label as a title."""
    for name in _DROPPED:
        element.attrib.pop(name, None)
    label = element.get("aria-label")
    if label and element.tag != f"{{{_NS}}}g":
        title = ET.Element(f"{{{_NS}}}title")
        title.text = label
        element.insert(0, title)


def _drop_invisible(element: ET.Element) -> None:
    for child in list(element):
        if child.get("display") == "none" or child.get("opacity") == "0" or child.get("d") == "M0,0h0v0h0Z":
            element.remove(child)
        else:
            _drop_invisible(child)
