"""The table that comes back from a kit: how long each of its networks took on a device."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpt_nas.calibration import kit_run
from cpt_nas.calibration.kit import Manifest
from hwprofiles.yaml_file import shortened

COLUMNS, OPTIONAL = kit_run.COLUMNS, kit_run.OPTIONAL
MOST_S = 3600  # seconds of a call
LONGEST = 200  # characters of what a table's first lines say


@dataclass(frozen=True)
class Row:
    """A line of a table: one network's seconds a call; None: not told.

    Attributes:
        median_s, q25_s, q75_s: of the readings; the median is whatever the harness gives as time.
        n: readings.
        p90_s, p99_s: of single calls.
        first_call_s: of its first call.
    """

    median_s: float
    q25_s: float
    q75_s: float
    n: int
    p90_s: float | None = None
    p99_s: float | None = None
    first_call_s: float | None = None

    @property
    def spread(self) -> float:
        """Interquartile range / median."""
        return (self.q75_s - self.q25_s) / self.median_s


@dataclass(frozen=True)
class Times:
    """What a device answered.

    Attributes:
        rows: by network, in the kit's order.
        device: the lines '# key: value' before the header.
    """

    rows: dict[str, Row]
    device: dict[str, str]


def read_times(path: Path, manifest: Manifest) -> Times:
    """A table of times, checked line by line against the kit.

    Args:
        path: the CSV file: lines '# key: value', the header, a line a network in the kit's order,
            each with its line break.
        manifest: of the kit that was timed.

    Raises:
        ValueError: names the line, what stands there and what is expected.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"times: {path} cannot be read: {error}") from None
    lines = text.splitlines()
    device: dict[str, str] = {}
    start = 0
    while start < len(lines) and lines[start].startswith("#"):
        key, colon, value = lines[start][1:].partition(":")
        if not colon or key.strip() in device:
            wanted = "'# key: value', each key once"
            raise _wrong(path, start, f"{lines[start]!r}, expected is {wanted}")
        device[key.strip()] = value = value.strip()
        if len(value) > LONGEST or not value.isprintable():
            wanted = f"at most {LONGEST} printable characters"
            raise _wrong(path, start, f"{shortened(value)}, expected are {wanted}")
        start += 1
    if device.get("kit", manifest.id) != manifest.id:
        raise ValueError(
            f"times: {path} is of kit {device['kit']}, the manifest beside it of {manifest.id}"
        )
    columns = tuple(lines[start].split(",")) if start < len(lines) else ()
    more = columns[len(COLUMNS) :]
    if (
        columns[: len(COLUMNS)] != COLUMNS
        or not set(more) <= {*OPTIONAL}
        or len({*more}) < len(more)
    ):
        found = lines[start] if start < len(lines) else "the end of the file"
        wanted = (
            f"the header {','.join(COLUMNS)}, and after it what is known of {','.join(OPTIONAL)}"
        )
        raise _wrong(path, start, f"{shortened(found)}, expected is {wanted}")
    table = list(csv.reader(lines[start + 1 :]))
    rows = {}
    for i, network in enumerate(manifest.networks):
        at = start + 1 + i
        if i >= len(table):
            raise _wrong(path, at, f"the end of the file, expected is network {network.name}")
        if not table[i] or table[i][0] != network.name:
            found = table[i][0] if table[i] else ""
            raise _wrong(path, at, f"network {shortened(found)}, expected is {network.name!r}")
        rows[network.name] = _row(path, at, columns, table[i])
    at = start + 1 + len(manifest.networks)
    if len(table) > len(manifest.networks):
        found = ",".join(table[len(manifest.networks)])
        raise _wrong(path, at, f"{shortened(found)}, expected is the end")
    if not text.endswith(("\n", "\r")):
        raise _wrong(path, at - 1, "the last line has no line break, so it may have been cut")
    return Times(rows, device)


def _row(path: Path, at: int, columns: Sequence[str], cells: Sequence[str]) -> Row:
    said = shortened(",".join(cells))
    try:
        named = dict(zip(columns, cells, strict=True))
        known = [float(v) if (v := named.get(k, "").strip()) else None for k in OPTIONAL]
        seconds, low, high = (float(named[k]) for k in ("seconds", "q25_s", "q75_s"))
        row = Row(seconds, low, high, int(named["n"]), *known)
    except ValueError:
        wanted = f"{len(columns)} cells, numbers in all but the first"
        raise _wrong(path, at, f"{said}, expected are {wanted}") from None
    if not (0 < row.q25_s <= row.median_s <= row.q75_s < MOST_S and row.n >= 1):
        wanted = f"0 < q25_s <= seconds <= q75_s < {MOST_S}, n >= 1"
        raise _wrong(path, at, f"{said}, expected is {wanted}")
    tail = [v for v in (row.p90_s, row.p99_s) if v is not None]
    if not all(0 < v < MOST_S for v in known if v is not None) or tail != sorted(tail):
        wanted = f"0 < p90_s <= p99_s < {MOST_S}, and so is first_call_s"
        raise _wrong(path, at, f"{said}, expected is {wanted}")
    return row


def _wrong(path: Path, index: int, what: str) -> ValueError:
    return ValueError(f"times: {path}, line {index + 1}: {what}")
