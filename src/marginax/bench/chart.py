"""The chart of a record: microseconds an account by every contender, one panel a workload. Needs the extra `report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt

from marginax.bench.contenders import OURS, PURE

PANEL_WIDTH, BAR, COLUMNS, SCALE = 330, 15, 2, 2
# The kernel, its pure path, everyone else: Okabe and Ito, told apart by the colour-blind. One core is paler.
COLOURS = {"machine code": "#0072B2", "pure JAX": "#E69F00", "others": "#9a9a9a"}
PALE = 0.45
# The axis ends here, in longest bars: figures are written behind them.
ROOM = 1.18
PLACES = {"all_cores": "all cores", "one_core": "one core"}
# A contender this many times slower than the kernel would leave the others no room: its bar is cut, its label is not.
LONGEST = 12


def draw(record: Mapping[str, Any], to: Path) -> None:
    """Draw the record of `measure` into an SVG or PNG file. Units: microseconds an account; less is better."""
    kinds = {OURS: "machine code" if record["path"]["machine_code"] else "pure JAX", PURE: "pure JAX"}
    panels = [_panel(name, each, kinds) for name, each in record["workloads"].items()]
    rows = [alt.hconcat(*panels[first : first + COLUMNS], spacing=30) for first in range(0, len(panels), COLUMNS)]
    around = record["context"]
    chart = (
        alt.vconcat(*rows, spacing=22)
        .properties(
            title=alt.TitleParams(
                "Value at risk and expected shortfall of a whole book: microseconds an account, less is better",
                subtitle=[
                    f"{around['processor']}, {around['machine']}; size {record['size']}, median of "
                    f"{record['rounds']} rounds, load before {around['load_before']}",
                    "Dark bars: all cores. Pale bars: one core. Bars marked > are cut, their figures are not.",
                ],
                anchor="start",
                offset=16,
                fontSize=15,
            )
        )
        .configure(background="white", padding=16)
        .configure_view(stroke=None)
        .configure_axis(grid=False, domain=False, ticks=False)
    )
    chart.save(str(to), scale_factor=SCALE)


def _panel(name: str, figures: Mapping[str, Any], kinds: Mapping[str, str]) -> alt.LayerChart:
    places = [place for key, place in PLACES.items() if key in figures]
    rows = _rows(figures, kinds)
    order = sorted((each for each in rows if each["place"] == places[0]), key=lambda each: each["microseconds"])
    names = [each["contender"] for each in order]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("contender:N", sort=names, title=None, axis=alt.Axis(labelLimit=130, minExtent=105)),
        yOffset=alt.YOffset("place:N", sort=places),
    )
    longest = max(each["drawn"] for each in rows)
    bars = base.mark_bar(height={"band": 0.82}).encode(
        x=alt.X("drawn:Q", axis=None, scale=alt.Scale(domain=[0, longest * ROOM])),
        color=alt.Color("kind:N", legend=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))),
        opacity=alt.Opacity("place:N", legend=None, scale=alt.Scale(domain=places, range=[1, PALE][: len(places)])),
    )
    words = base.mark_text(align="left", dx=4, fontSize=9).encode(x="drawn:Q", text="label:N")
    title = alt.TitleParams(
        name, subtitle=figures["says"], anchor="start", frame="bounds", fontSize=12, subtitleFontSize=9
    )
    height = BAR * len(names) * (1 + (len(places) - 1) / 2)
    return alt.LayerChart(layer=[bars, words]).properties(width=PANEL_WIDTH, height=height, title=title)


def _rows(figures: Mapping[str, Any], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """A bar a row: contender, place, kind, microseconds, what is drawn of them and what is written beside."""
    timed = [
        (contender, place, each["microseconds_per_account"])
        for key, place in PLACES.items()
        for contender, each in figures.get(key, {"contenders": {}})["contenders"].items()
    ]
    longest = LONGEST * max(number for contender, _, number in timed if contender == OURS)
    return [
        {
            "contender": contender,
            "place": place,
            "kind": kinds.get(contender, "others"),
            "microseconds": number,
            "drawn": min(number, longest),
            "label": ("> " if number > longest else "") + (f"{number:.1f}" if number < 100 else f"{number:,.0f}"),
        }
        for contender, place, number in timed
    ]
