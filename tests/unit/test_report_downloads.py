"""What a page carries: the judgement whole, the checks as a table, and neither able to do harm."""

from __future__ import annotations

import base64
import csv
import gzip
import io

from harness.judgement import Judgement
from reports import downloads
from reports.parts import Download
from tests import factories


def raw(found: Download) -> bytes:
    return base64.b64decode(found.href.partition("base64,")[2], validate=True)


def test_the_judgement_is_all_there() -> None:
    for cell in factories.mixed():
        found = downloads.judgement(cell)
        assert Judgement.model_validate_json(gzip.decompress(raw(found))) == cell
        assert found.name == f"{cell.scenario}--{cell.stack}.judgement.json.gz"


def test_the_same_judgement_is_the_same_file() -> None:
    cell = factories.judgement()
    assert downloads.judgement(cell) == downloads.judgement(cell)


def test_every_check_is_a_row() -> None:
    cells = factories.mixed()
    rows = list(csv.DictReader(io.StringIO(raw(downloads.checks(cells)).decode(), newline="")))
    checks = [check for cell in cells for check in cell.checks]
    assert [row["text"] for row in rows] == [check.text for check in checks]
    assert [float(row["value"]) for row in rows] == [check.value for check in checks]
    assert [row["cell_verdict"] for row in rows[:2]] == ["FAIL", "FAIL"]
    assert rows[0]["allowed_rate"] == "0.05"


def test_a_name_is_no_path_and_a_text_no_formula() -> None:
    cell = factories.judgement(scenario="../../etc", stack='=HYPERLINK("http://x")')
    assert downloads.judgement(cell).name == "..-..-etc--HYPERLINK-http-x-.judgement.json.gz".replace(
        "--HYPERLINK", "---HYPERLINK"
    )
    (row, _) = csv.DictReader(io.StringIO(raw(downloads.checks([cell])).decode(), newline=""))
    assert row["stack"] == '\'=HYPERLINK("http://x")'


def test_what_has_no_utf8_and_no_end_still_travels() -> None:
    cell = factories.judgement(server_log_tail=("half \ud800", "x" * 1_000_000))
    found = Judgement.model_validate_json(gzip.decompress(raw(downloads.judgement(cell))))
    assert found.server_log_tail == ("half \\ud800", "x" * 2000)
