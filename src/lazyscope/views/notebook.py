"""A diagnosis as one picture, and as HTML for a notebook: its table and its regime map."""

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lazyscope import figures
from lazyscope.diagnose.diagnosis import Diagnosis
from lazyscope.diagnose.layers import that_matter
from lazyscope.views.panels import draw_layers
from lazyscope.views.regime_map import Point, draw_map

HERE = "this model"


def picture(found: Diagnosis) -> Figure:
    """The regime map with the diagnosis on it, and the layers that matter."""
    figure, (ax, shares, alone) = figures.new_figure(12.5, 4.6, columns=3, ratios=(5.2, 2.6, 1.6))
    draw_map(ax, [Point(HERE, found.gap, found.differential)], found.thresholds)
    ax.set_title(f"{found.verdict.partition(' (')[0]}: g = {found.gap}, j = {found.differential}", loc="left")
    draw_layers(shares, alone, that_matter(found.groups))
    return figure


def as_html(found: Diagnosis) -> str:
    """Table and regime map, the latter as SVG inside; everything that came from outside is escaped."""
    rows = Markup("").join(
        Markup('<tr><th scope="row" style="text-align:left;vertical-align:top">{}</th>'
               '<td style="text-align:left">{}</td></tr>').format(name, text)
        for name, text in found.rows()
    )  # fmt: skip
    figure, (ax,) = figures.new_figure(6.4, 4.4)
    draw_map(ax, [Point(HERE, found.gap, found.differential)], found.thresholds)
    svg = figures.to_svg(figure).decode()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(alternative(found))}"', 1)
    return f'<div><table>{rows}</table><div style="background:#fff;max-width:40rem">{svg}</div></div>'


def alternative(found: Diagnosis) -> str:
    """What the regime map shows, in words."""
    return f"The regime map: g = {found.gap}, j = {found.differential}, {found.verdict}"
