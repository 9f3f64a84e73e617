"""A drawing of lines, areas and words, made once and written as inline SVG, as an SVG file or as a PNG file.

Inline, a shape has a class (``line s3``) and the page's style sheet gives it a colour, so that light, dark and printed
pages share one drawing. In a file of its own the light colours are written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup, escape

from nestvox.atomic import atomic_path, write_text
from nestvox.errors import NestvoxError
from nestvox.extras import require

FIGURE_FORMATS = ("svg", "png")
N_SERIES = 8

Point = tuple[float, float]
Ticks = Sequence[tuple[float, str]]

_LIGHT_AND_DARK = {
    "paper": ("#ffffff", "#12161f"),
    "ink": ("#1a1f2b", "#e6e9f0"),
    "soft": ("#596275", "#9aa4b8"),
    "rule": ("#d9dde5", "#2c3444"),
    "shade": ("#f4f6f9", "#1a202c"),
    "accent": ("#1d4fbf", "#8fb2ff"),
    "warn": ("#fdeae6", "#45190f"),
    "warn-ink": ("#7a1a10", "#ffd9d1"),
    "warn-rule": ("#d2573f", "#e2705a"),
    "target": ("#1f6feb", "#6ea8ff"),
    "nontarget": ("#c2570c", "#f0944d"),
    "s0": ("#b45309", "#f0a04b"),
    "s1": ("#be185d", "#f472b6"),
    "s2": ("#7c3aed", "#b79bff"),
    "s3": ("#1d4fbf", "#7fa8ff"),
    "s4": ("#0f766e", "#4fd1c0"),
    "s5": ("#3f6212", "#a8cf5f"),
    "s6": ("#475569", "#a3b1c6"),
    "s7": ("#111827", "#ffffff"),
}
PALETTES: Mapping[str, Mapping[str, str]] = {
    kind: {name: colours[number] for name, colours in _LIGHT_AND_DARK.items()}
    for number, kind in enumerate(("light", "dark"))
}
"""Colours by name; ``s0`` to ``s7`` are those of series."""


@dataclass(frozen=True)
class _Style:
    """How a kind of shape looks; a colour is a name of the palette, or ``series``: that of its series."""

    stroke: str | None = None
    width: float = 1.0
    dash: tuple[int, int] | None = None
    fill: str | None = None
    opacity: float = 1.0


_STYLES: Mapping[str, _Style] = {
    "area-nontarget": _Style("nontarget", 1.2, fill="nontarget", opacity=0.32),
    "area-target": _Style("target", 1.2, fill="target", opacity=0.32),
    "backing": _Style(fill="paper", opacity=0.86),
    "band": _Style(fill="series", opacity=0.16),
    "diagonal": _Style("soft", 1.0, (2, 4)),
    "dot": _Style(fill="series"),
    "frame": _Style("soft", 1.0),
    "grid": _Style("rule", 0.8),
    "line": _Style("series", 1.9),
    "line-dashed": _Style("series", 1.6, (6, 3)),
    "line-dotted": _Style("series", 1.6, (2, 3)),
    "threshold": _Style("ink", 1.2, (4, 3)),
    "whisker": _Style("series", 1.3),
}
_TEXTS: Mapping[str, tuple[str, float]] = {"tick": ("soft", 11.5), "axis": ("ink", 12.5), "key": ("ink", 12.0)}
_CORNERS = ("bottom left", "top right", "bottom right", "top left")  # as they are tried
_KEY_STEP, _KEY_SAMPLE, _KEY_GAP = 17, 20, 7  # pixels a line, of a sample, between it and its text
_FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif'


@dataclass(frozen=True)
class _Shape:
    style: str
    points: tuple[Point, ...]
    closed: bool
    series: int | None
    clipped: bool
    radius: float = 0.0


@dataclass(frozen=True)
class _Text:
    style: str
    at: Point
    text: str
    anchor: str
    upright: bool


@dataclass
class Drawing:
    """Shapes and words on a sheet; x runs to the right and y downwards, both in pixels.

    Attributes:
        name: of the file, and of the clip path; unique on a page.
        width: in pixels.
        height: in pixels.
        description: for those who cannot see it.
        clip: left, top, width and height of the part that clipped shapes are shown in.
    """

    name: str
    width: int
    height: int
    description: str
    clip: tuple[float, float, float, float] | None = None
    _parts: list[_Shape | _Text] = field(default_factory=list)

    def line(
        self, points: Iterable[Point], style: str = "line", *, series: int | None = None, clipped: bool = False
    ) -> None:
        """Add an open line."""
        self._parts.append(_Shape(style, tuple(points), False, _within(series), clipped))

    def area(
        self, points: Iterable[Point], style: str = "band", *, series: int | None = None, clipped: bool = False
    ) -> None:
        """Add a closed area."""
        self._parts.append(_Shape(style, tuple(points), True, _within(series), clipped))

    def dot(self, at: Point, *, series: int, radius: float = 3.5, clipped: bool = False) -> None:
        """Add a filled circle."""
        self._parts.append(_Shape("dot", (at,), True, _within(series), clipped, radius))

    def text(self, at: Point, text: str, style: str = "tick", *, anchor: str = "middle", upright: bool = False) -> None:
        """Add words; `anchor` is ``start``, ``middle`` or ``end``; `upright` turns them by 90 degrees."""
        self._parts.append(_Text(style, at, text, anchor, upright))

    def svg(self) -> Markup:
        """The drawing as an element of a page, without colours."""
        # Every value in the parts is a number or escaped where it is put in.
        return Markup(  # noqa: S704
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.description)}">'
            f"{self._body()}</svg>"
        )

    def write(self, folder: str | Path, fmt: str) -> Path:
        """Write the drawing atomically as ``<name>.<fmt>`` in light colours; returns the file.

        Raises:
            NestvoxError: a format that is not of `FIGURE_FORMATS`.
        """
        if fmt not in FIGURE_FORMATS:
            raise NestvoxError(f"figures are written as {' or '.join(FIGURE_FORMATS)}, not {fmt!r}")
        path = Path(folder) / f"{self.name}.{fmt}"
        if fmt == "svg":
            variables = "".join(f"--{name}:{colour};" for name, colour in PALETTES["light"].items())
            write_text(
                path,
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}"><title>{escape(self.description)}</title>'
                f"<style>:root{{{variables}}}{style_sheet()}</style>"
                f'<rect width="{self.width}" height="{self.height}" fill="{PALETTES["light"]["paper"]}"/>'
                f"{self._body()}</svg>\n",
            )
        else:
            with atomic_path(path) as temporary:
                self._png(temporary)
        return path

    def _body(self) -> str:
        clip = f"clip-{self.name}"
        body = []
        if self.clip is not None and any(isinstance(part, _Shape) and part.clipped for part in self._parts):
            left, top, width, height = self.clip
            body.append(
                f'<clipPath id="{escape(clip)}"><rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"/>'
                "</clipPath>"
            )
        for part in self._parts:
            if isinstance(part, _Text):
                x, y = part.at
                place = (
                    f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"'
                    if part.upright
                    else f'x="{x:.1f}" y="{y:.1f}"'
                )
                body.append(
                    f'<text class="{part.style}" {place} text-anchor="{part.anchor}">{escape(part.text)}</text>'
                )
                continue
            series = "" if part.series is None else f" s{part.series}"
            clipped = f' clip-path="url(#{escape(clip)})"' if part.clipped else ""
            if part.radius:
                (x, y), *_ = part.points
                body.append(
                    f'<circle class="{part.style}{series}" cx="{x:.1f}" cy="{y:.1f}" r="{part.radius:g}"{clipped}/>'
                )
                continue
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in part.points)
            body.append(f'<path class="{part.style}{series}" d="M{path}{"Z" if part.closed else ""}"{clipped}/>')
        return "".join(body)

    def _png(self, path: Path) -> None:
        require("matplotlib", extra="plots", purpose="writing figures as PNG")
        # Imported here: a command that writes no figure must not wait for it.
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.patches import Circle, Polygon, Rectangle  # noqa: PLC0415

        colours = PALETTES["light"]
        figure = Figure(figsize=(self.width / 96, self.height / 96), dpi=192, facecolor=colours["paper"])
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        frame = None
        if self.clip is not None:
            left, top, width, height = self.clip
            frame = Rectangle((left, top), width, height, transform=axes.transData)
        points = 72 / 96  # of a pixel
        for order, part in enumerate(self._parts):
            if isinstance(part, _Text):
                colour, size = _TEXTS[part.style]
                align = {"start": "left", "middle": "center", "end": "right"}[part.anchor]
                axes.text(
                    *part.at,
                    part.text,
                    color=colours[colour],
                    fontsize=size * points,
                    ha=align,
                    va="baseline",
                    rotation=90 if part.upright else 0,
                    rotation_mode="anchor",
                    zorder=order,
                    parse_math=False,
                )
                continue
            style = _STYLES[part.style]
            stroke, fill = (_colour(name, part.series, colours) for name in (style.stroke, style.fill))
            if part.radius:
                shape: Circle | Polygon = Circle(part.points[0], part.radius, facecolor=fill, edgecolor="none")
            else:
                shape = Polygon(
                    list(part.points),
                    closed=part.closed,
                    fill=fill is not None,
                    facecolor=(*_rgb(fill), style.opacity) if fill else "none",
                    edgecolor=stroke or "none",
                    linewidth=style.width * points,
                    joinstyle="round",
                )
                if style.dash is not None:
                    shape.set_linestyle((0, [length / style.width for length in style.dash]))
            shape.set_zorder(order)
            axes.add_patch(shape)
            if part.clipped and frame is not None:
                shape.set_clip_path(frame)
        figure.savefig(path, format="png", metadata={"Software": None})


def _wide(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high != low else (low, low + max(1.0, abs(low)))  # an axis may run downwards


@dataclass
class Plot:
    """A frame with two axes on a drawing: data in, pixels out.

    Attributes:
        drawing: what it is drawn on.
        x_range: data at the left and the right edge.
        y_range: data at the lower and the upper edge.
        left: pixels left of the frame.
        right: pixels right of it.
        top: pixels above it.
        bottom: pixels below it.
    """

    drawing: Drawing
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int = 52
    right: int = 12
    top: int = 12
    bottom: int = 46

    def __post_init__(self) -> None:
        # All values alike, as where nothing was ever wrong: an axis still needs a length.
        self.x_range, self.y_range = (_wide(*ends) for ends in (self.x_range, self.y_range))
        sheet = self.drawing
        sheet.clip = (
            self.left,
            self.top,
            sheet.width - self.left - self.right,
            sheet.height - self.top - self.bottom,
        )

    def x(self, value: float) -> float:
        """Pixel of a value on the horizontal axis."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.drawing.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Pixel of a value on the vertical axis."""
        low, high = self.y_range
        sheet = self.drawing
        return sheet.height - self.bottom - (value - low) / (high - low) * (sheet.height - self.top - self.bottom)

    def points(self, xs: Iterable[float], ys: Iterable[float]) -> list[Point]:
        """Pixels of a line; values far outside stay within what a file can hold."""
        far = 1e5
        return [(min(max(self.x(a), -far), far), min(max(self.y(b), -far), far)) for a, b in zip(xs, ys, strict=True)]

    def axes(self, x_ticks: Ticks, y_ticks: Ticks, x_name: str, y_name: str) -> None:
        """Draw grid, ticks, frame and names."""
        sheet = self.drawing
        bottom, right = sheet.height - self.bottom, sheet.width - self.right
        for value, text in x_ticks:
            at = self.x(value)
            sheet.line([(at, self.top), (at, bottom)], "grid")
            sheet.text((at, bottom + 17), text)
        for value, text in y_ticks:
            at = self.y(value)
            sheet.line([(self.left, at), (right, at)], "grid")
            sheet.text((self.left - 7, at + 4), text, anchor="end")
        corners = [(self.left, self.top), (right, self.top), (right, bottom), (self.left, bottom)]
        sheet.area(corners, "frame")
        sheet.text(((self.left + right) / 2, sheet.height - 9), x_name, "axis")
        if y_name:
            sheet.text((15, (self.top + bottom) / 2), y_name, "axis", upright=True)

    def emptiest(self, entries: Sequence[tuple[str, str, int | None]], drawn: Sequence[tuple[float, float]]) -> str:
        """The corner where a key hides the fewest of the points (pixels) that were drawn; see `key`."""

        def hidden(corner: str) -> int:
            left, top, right, bottom = self._key_box(entries, corner)
            return sum(left <= x <= right and top <= y <= bottom for x, y in drawn)

        return min(_CORNERS, key=hidden)

    def _key_box(
        self, entries: Sequence[tuple[str, str, int | None]], corner: str
    ) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a key, in pixels."""
        sheet = self.drawing
        height = _KEY_STEP * len(entries)
        top = self.top + 10 if corner.startswith("top") else sheet.height - self.bottom - height - 6
        longest = max(len(_shortened(text)) for _, text, _ in entries)
        width = 12 + _KEY_SAMPLE + _KEY_GAP + 6.6 * longest  # of the words as near as one can tell here
        left = sheet.width - self.right - 6 - width if corner.endswith("right") else self.left + 6
        return left, top - 5, left + width, top + height

    def key(self, entries: Sequence[tuple[str, str, int | None]], *, corner: str = "top right") -> None:
        """Draw a key inside the frame.

        Args:
            entries: style of the line, text, series.
            corner: of the frame: ``top right``, ``top left``, ``bottom left`` or ``bottom right``.
        """
        sheet = self.drawing
        texts = [_shortened(text) for _, text, _ in entries]
        step, sample, gap = _KEY_STEP, _KEY_SAMPLE, _KEY_GAP
        left, above, right, below = self._key_box(entries, corner)
        top = above + 5
        sheet.area([(left, above), (right, above), (right, below), (left, below)], "backing")
        for number, ((style, _, series), text) in enumerate(zip(entries, texts, strict=True)):
            y = top + step * number + 8
            if corner.endswith("right"):
                end = sheet.width - self.right - 10
                start, at, anchor = end - sample, end - sample - gap, "end"
            else:
                start = self.left + 10
                end, at, anchor = start + sample, start + sample + gap, "start"
            if style in ("band", "area-target", "area-nontarget"):
                sheet.area([(start, y - 5), (end, y - 5), (end, y + 3), (start, y + 3)], style, series=series)
            else:
                sheet.line([(start, y), (end, y)], style, series=series)
            sheet.text((at, y + 4), text, "key", anchor=anchor)


def style_sheet() -> str:
    """CSS of every kind of shape and text, in terms of the palette's variables."""
    rules = []
    for name, style in _STYLES.items():
        stroke = f"var(--{style.stroke})" if style.stroke else "none"
        fill = f"var(--{style.fill})" if style.fill else "none"
        dash = f"stroke-dasharray:{style.dash[0]} {style.dash[1]};" if style.dash else ""
        opacity = f"fill-opacity:{style.opacity:g};" if style.opacity < 1 else ""
        line = f"stroke:{stroke};stroke-width:{style.width:g};{dash}stroke-linejoin:round"
        rules.append(f"svg .{name}{{{line};fill:{fill};{opacity}}}")
    rules += [f"svg text.{name}{{font:{size:g}px {_FONT};fill:var(--{ink})}}" for name, (ink, size) in _TEXTS.items()]
    rules += [f".s{number}{{--series:var(--s{number})}}" for number in range(N_SERIES)]
    return "\n".join(rules)


def _within(series: int | None) -> int | None:
    return None if series is None else series % N_SERIES


def _colour(name: str | None, series: int | None, colours: Mapping[str, str]) -> str | None:
    if name is None:
        return None
    return colours[f"s{series or 0}" if name == "series" else name]


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _shortened(text: str, most: int = 34) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
