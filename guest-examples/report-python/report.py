"""Readings of sensors as CSV, summed up as JSON.

Nothing here knows that it runs in WebAssembly, so any Python runs it and its tests.
"""

import csv
import io
import json
import math
import statistics

COLUMNS = ["sensor", "time", "value"]


class BadMessage(Exception):
    """The message itself is wrong: another try cannot help."""


def report(message: bytes) -> str:
    try:
        # Not "utf-8-sig": a codec is a module, and the component has only the modules that were imported when it was built.
        text = message.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadMessage(f"not UTF-8: {error}") from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    readings: dict[str, list[float]] = {}
    try:
        if next(rows, None) != COLUMNS:
            raise BadMessage(f"the first line has to be {','.join(COLUMNS)}")
        for row in rows:
            if not row:
                continue
            if len(row) != len(COLUMNS):
                raise BadMessage(f"line {rows.line_num} has {len(row)} columns")
            sensor, _time, value = row
            readings.setdefault(sensor, []).append(number(value, rows.line_num))
    except csv.Error as error:
        raise BadMessage(f"line {rows.line_num}: {error}") from error
    if not readings:
        raise BadMessage("there are no readings")
    return json.dumps({sensor: summary(values) for sensor, values in sorted(readings.items())})


def number(text: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise BadMessage(f"line {line}: {error}") from error
    if not math.isfinite(value):
        raise BadMessage(f"line {line}: {text} is no reading")
    return value


def summary(values: list[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "min": min(values),
        "max": max(values),
        "mean": round(statistics.fmean(values), 6),
        "median": round(statistics.median(values), 6),
    }
