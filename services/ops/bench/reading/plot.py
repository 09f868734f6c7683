"""What things cost against the size of their thread, as an SVG: both axes logarithmic, a line for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lxml import etree

_SVG: Final = "http://www.w3.org/2000/svg"
_WIDTH: Final = 860
_HEIGHT: Final = 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 250, 50, 60
_COLOURS: Final = ("#0b6e99", "#c0392b", "#27803b", "#8e44ad", "#b9770e", "#34495e")


@dataclass(frozen=True, slots=True)
class Line:
    """A thing that costs: points of (comments, microseconds)."""

    name: str
    points: Sequence[tuple[float, float]]


def lines(report: dict[str, Any]) -> list[Line]:
    """What the report tells by size."""
    found = list(_lines(report))
    return [line for line in found if line.points]


def _lines(report: dict[str, Any]) -> Iterator[Line]:
    def points(part: str, name: str, scale: float) -> list[tuple[float, float]]:
        rows = report.get(part, {}).get("sizes", ())
        return [(row["comments"], row[name] * scale) for row in rows if row[name] > 0]

    warm = report.get("sizes", {}).get("sizes", ())
    yield Line(
        "first page, warm: API's CPU", [(row["comments"], row["cpu_us_per_read"]["server"]) for row in warm]
    )
    yield Line("page nobody cached", points("sizes", "uncached", 1e6))
    yield Line("one comment more: projector's CPU", points("projector", "cpu_us", 1.0))
    yield Line("cold page, 50 readers: the last", points("cold", "last", 1e6))


def draw(found: Sequence[Line]) -> bytes:
    """The picture. Raises ValueError where there is nothing to draw."""
    xs = [x for line in found for x, _ in line.points]
    ys = [y for line in found for _, y in line.points]
    if not xs:
        raise ValueError("the report has no part whose cost depends on the size of a thread")
    low_x, high_x = _decades(xs)
    low_y, high_y = _decades(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low_x) / (high_x - low_x)
        up = (math.log10(y) - low_y) / (high_y - low_y)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    root = etree.Element(
        f"{{{_SVG}}}svg", nsmap={None: _SVG}, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", width=str(_WIDTH)
    )
    root.set("font-family", "sans-serif")
    root.set("font-size", "13")
    _add(root, "rect", width=_WIDTH, height=_HEIGHT, fill="#ffffff")
    _text(root, _LEFT, 28, "Cost against the number of comments in the thread", size=16)
    for power in range(low_x, high_x + 1):
        x, y = place(10.0**power, 10.0**low_y)
        _add(root, "line", x1=x, x2=x, y1=_TOP, y2=y, stroke="#e5e5e5")
        _text(root, x, y + 20, f"{10**power:,}", anchor="middle")
    for power in range(low_y, high_y + 1):
        x, y = place(10.0**low_x, 10.0**power)
        _add(root, "line", x1=x, x2=_WIDTH - _RIGHT, y1=y, y2=y, stroke="#e5e5e5")
        _text(root, x - 8, y + 4, _time(power), anchor="end")
    _text(root, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14, "comments", anchor="middle")
    for number, line in enumerate(found):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [place(x, y) for x, y in sorted(line.points)]
        _add(
            root,
            "polyline",
            points=" ".join(f"{x:.1f},{y:.1f}" for x, y in placed),
            fill="none",
            stroke=colour,
            stroke_width=2,
        )
        for x, y in placed:
            _add(root, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, fill=colour)
        _text(root, _WIDTH - _RIGHT + 16, _TOP + 20 + 22 * number, line.name, fill=colour)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def write(report: dict[str, Any], file: Path) -> None:
    """Draw the report into a file."""
    file.write_bytes(draw(lines(report)))


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that hold all of the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _time(power: int) -> str:
    """10 to a power, in microseconds."""
    unit = "us" if power < 3 else "ms" if power < 6 else "s"
    return f"{10.0 ** (power - 3 * min(2, max(0, power // 3))):g} {unit}"


def _add(parent: etree._Element, name: str, **attributes: object) -> etree._Element:
    given = {key.replace("_", "-"): str(value) for key, value in attributes.items()}
    return etree.SubElement(parent, f"{{{_SVG}}}{name}", given)


def _text(
    parent: etree._Element,
    x: float,
    y: float,
    said: str,
    *,
    anchor: str = "start",
    size: int = 13,
    fill: str = "#333",
) -> None:
    element = _add(parent, "text", x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, font_size=size, fill=fill)
    element.text = said
