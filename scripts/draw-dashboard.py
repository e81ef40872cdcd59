#!/usr/bin/env python3
"""Draws the panels of a Grafana dashboard from a Prometheus, as one SVG: the queries, the arrangement, the units and the legends are
the dashboard's, the look is not Grafana's.

    scripts/draw-dashboard.py SERVER DASHBOARD SECONDS FILE      the last SECONDS
"""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from html import escape

COLUMN, ROW, GAP = 50, 30, 4
POINTS = 75
COLOURS = ["#56a64b", "#e0a800", "#3274d9", "#ff780a", "#e02f44", "#a352cc", "#1a8a8a", "#8f6b3f"]
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.heading { font-weight: 600; font-size: 14px } .title { font-weight: 600 } .small { font-size: 10px; fill: #57606a }
.number { font-size: 26px; font-weight: 600; text-anchor: middle } .end { text-anchor: end } .middle { text-anchor: middle }
.panel { fill: #fff; stroke: #d0d7de } .grid { stroke: #d0d7de; stroke-width: .5 }
path { stroke-width: 1.2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9198a1 } .panel { fill: #0d1117; stroke: #30363d } .grid { stroke: #30363d }
}
"""


def ask(server, kind, **parameters):
    url = f"{server}/api/v1/{kind}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def expression(target):
    """A query with what Grafana would put in for its variables."""
    return re.sub(r'"\$\w+"', '".*"', target["expr"].replace("$__rate_interval", "15s").replace("[24h]", "[1h]"))


def legend(target, labels):
    text = re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), target.get("legendFormat", ""))
    return text.strip() or ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def number(value):
    """Three digits, as far as they are needed."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def amount(value, unit):
    if value == 0:
        return "0"
    if unit == "s":
        for factor, name in ((1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min")):
            if abs(value) < factor * (600 if name == "s" else 1000) or name == "min":
                return f"{number(value / factor)} {name}"
    if unit in ("bytes", "Bps"):
        power = min(int(math.log(abs(value), 1024)), 4) if abs(value) >= 1 else 0
        name = "B KiB MiB GiB TiB".split()[power]
        return f"{number(value / 1024**power)} {name}{'/s' if unit == 'Bps' else ''}"
    return number(value) + ("/s" if unit == "ops" else "")


def ticks(highest, unit):
    """Round values from 0 to above the highest."""
    base = 2 if unit in ("bytes", "Bps") else 10
    step = highest / 4 or 1
    scale = base ** math.floor(math.log(step, base))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= step * 0.999)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


class Drawing:
    def __init__(self, server, seconds):
        self.server = server
        self.until = time.time()
        self.since = self.until - seconds
        self.step = seconds / POINTS
        self.out = []

    def text(self, x, y, text, kind=""):
        self.out.append(f'<text x="{x:g}" y="{y:g}"{f" class={kind!r}" if kind else ""}>{escape(text)}</text>'.replace("'", '"'))

    def series(self, panel):
        for target in panel["targets"]:
            found = ask(self.server, "query_range", query=expression(target), start=self.since, end=self.until, step=self.step)
            for one in sorted(found, key=lambda one: sorted(one["metric"].items())):
                values = [None] * (POINTS + 1)
                for at, value in one["values"]:
                    place = round((at - self.since) / self.step)
                    if 0 <= place <= POINTS and math.isfinite(float(value)):
                        values[place] = float(value)
                if any(value is not None for value in values):
                    yield legend(target, one["metric"]), values

    def stat(self, panel, x, y, width, height):
        found = []
        for target in panel["targets"]:
            found += [(legend(target, one["metric"]), float(one["value"][1])) for one in ask(self.server, "query", query=expression(target), time=self.until)]
        defaults = panel["fieldConfig"]["defaults"]
        unit = defaults.get("unit")
        for place, (name, value) in enumerate(found):
            middle = x + width * (place + 0.5) / len(found)
            self.text(middle, y + height / 2 + 16, amount(round(value, defaults.get("decimals", 1)), unit), "number")
            self.text(middle, y + height - 12, name, "small middle")

    def table(self, panel, x, y, width):
        rows = [one["metric"] for one in ask(self.server, "query", query=expression(panel["targets"][0]), time=self.until)]
        columns = [name for name in ("instance", "version", "commit", "wasmtime") if any(name in row for row in rows)]
        for place, name in enumerate(columns):
            across = x + 12 + place * (width - 24) / len(columns)
            self.text(across, y + 46, name, "small")
            for line, row in enumerate(rows):
                self.text(across, y + 70 + 22 * line, row.get(name, ""))

    def plot(self, panel, x, y, width, height):
        defaults = panel["fieldConfig"]["defaults"]
        unit, custom = defaults.get("unit"), defaults.get("custom", {})
        lines = list(self.series(panel))
        if not lines:
            sys.exit(f"no data for {panel['title']!r}")
        stacked = custom.get("stacking", {}).get("mode") == "normal"
        left, top, right, bottom = x + 58, y + 34, x + width - 12, y + height - 40
        tops, below = [], [0.0] * (POINTS + 1)
        for name, values in lines:
            if stacked:
                # The first value of a counter has no rate: nothing, in a stack.
                values = [(value or 0) + base for value, base in zip(values, below)]
                tops.append((name, values, below))
                below = values
            else:
                tops.append((name, values, None))
        marks = ticks(max((value for _, values, _ in tops for value in values if value is not None), default=1) or 1, unit)

        def at(place, value):
            return f"{left + (right - left) * place / POINTS:.0f} {bottom - (bottom - top) * value / marks[-1]:.1f}"

        for mark in marks:
            level = bottom - (bottom - top) * mark / marks[-1]
            self.out.append(f'<path class="grid" d="M{left} {level:.1f}H{right}"/>')
            self.text(left - 6, level + 4, amount(mark, unit), "small end")
        seconds = self.step * POINTS
        for place in range(0, int(seconds) + 1, 30):
            across = left + (right - left) * place / seconds
            self.text(across, bottom + 14, f"{place // 60}:{place % 60:02}", "small middle")
        across = left
        for place, (name, values, base) in enumerate(tops):
            colour = COLOURS[place % len(COLOURS)]
            if custom.get("drawStyle") == "bars":
                shape = "".join(f"M{at(point, 0)}L{at(point, value)}" for point, value in enumerate(values) if value)
                self.out.append(f'<path d="{shape}" fill="none" stroke="{colour}" stroke-width="3"/>')
            else:
                shape, pen = "", "M"
                for point, value in enumerate(values):
                    if value is None:
                        pen = "M"
                    else:
                        shape += pen + at(point, value)
                        pen = "L"
                if base is not None:
                    area = shape + "".join("L" + at(point, base[point]) for point in range(POINTS, -1, -1)) + "Z"
                    self.out.append(f'<path d="{area}" fill="{colour}" fill-opacity=".55"/>')
                self.out.append(f'<path d="{shape}" fill="none" stroke="{colour}"/>')
            self.out.append(f'<rect x="{across}" y="{y + height - 17}" width="12" height="4" fill="{colour}"/>')
            self.text(across + 16, y + height - 12, name, "small")
            across += 34 + 5.4 * len(name)

    def panel(self, panel):
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN + GAP, place["y"] * ROW + GAP
        width, height = place["w"] * COLUMN - 2 * GAP, place["h"] * ROW - 2 * GAP
        if panel["type"] == "row":
            self.text(x + 4, y + 16, panel["title"], "heading")
            return
        self.out.append(f'<rect class="panel" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>')
        self.text(x + 12, y + 20, panel["title"], "title")
        if panel["type"] == "stat":
            self.stat(panel, x, y, width, height)
        elif panel["type"] == "table":
            self.table(panel, x, y, width)
        elif panel["type"] == "timeseries":
            self.plot(panel, x, y, width, height)
        else:
            sys.exit(f"cannot draw a {panel['type']}, as {panel['title']!r} is")


def main():
    server, dashboard, seconds, file = sys.argv[1:]
    with open(dashboard) as text:
        panels = json.load(text)["panels"]
    drawing = Drawing(server, float(seconds))
    for panel in panels:
        drawing.panel(panel)
    width = COLUMN * max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in panels)
    height = ROW * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    with open(file, "w") as svg:
        svg.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="dashboard-title dashboard-text">\n'
                  '<title id="dashboard-title">The panels of the dashboard</title>\n'
                  '<desc id="dashboard-text">Each panel of the dashboard with its title, its legend and what its query returned over the time shown.</desc>\n'
                  f"<style>{STYLE}</style>\n" + "\n".join(drawing.out) + "\n</svg>\n")


main()
