"""What a night leaves for people and machines: ``nightly.json``, and the exit code and sentence that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from harness.errors import ExitCode
from harness.judgement import Verdict
from harness.records import Record

NIGHT_FORMAT = 1


class Status(StrEnum):
    WAITING = "waiting"
    JUDGED = "judged"
    FAILED = "failed"
    """It could not be run: its exit code and sentence say why."""
    NOT_RUN = "not run"
    """It did not fit into the time, or the night ended before it."""


class Attempt(Record):
    """One try at a cell that did not count, and why."""

    number: int
    reason: str
    exit_code: int | None = None
    """None: it was cut off, by a kill or by the night's own end."""
    directory: str = ""
    """What it left, beside ``nightly.json``."""


class CellRecord(Record):
    """One cell of a night. ``directory`` and ``report`` lie beside ``nightly.json``."""

    key: str
    """``SCENARIO--STACK--VARIANT``: the same every night, so that nights can be compared."""
    scenario: str
    stack: str
    variant: str
    status: Status = Status.WAITING
    directory: str = ""
    """Empty until there is a run that counts."""
    report: str = ""
    run: str = ""
    verdict: Verdict | None = None
    exit_code: int | None = None
    sentence: str = ""
    marks: tuple[str, ...] = ()
    check: str = ""
    """The check that the scenario is about, with its value and limit."""
    requests: int | None = None
    seconds: float = 0.0
    """That all its attempts took."""
    attempts: tuple[Attempt, ...] = ()
    """Those that did not count."""
    stored: str = ""
    """URL of its copy; empty: none."""


class Night(Record):
    """One night. Written after every step, so that a killed night can be read and resumed."""

    format: int = NIGHT_FORMAT
    name: str
    night: str
    """``YYYYmmdd-HHMMSS``, UTC: the name of its folder."""
    title: str = ""
    profile: str = ""
    plan: str
    """Digest of what was to be run: a night is only resumed with the same."""
    started: str
    """ISO 8601, UTC."""
    ended: str = ""
    """Empty: it runs, or was killed."""
    seconds: float = 0.0
    """That it ran; the time between a kill and its resumption is not in it."""
    resumed: int = 0
    host: str = ""
    harness_version: str = ""
    git: str = ""
    stopped: str = ""
    """Why it ended before its last cell; empty: it did not."""
    cells: tuple[CellRecord, ...]
    removed: tuple[str, ...] = ()
    """What retention compacted or deleted of earlier nights."""
    notes: tuple[str, ...] = ()
    exit_code: int | None = None
    sentence: str = ""

    @property
    def finished(self) -> bool:
        return self.ended != ""


INTERRUPTED = "interrupted"
"""How :attr:`Night.stopped` begins after Ctrl-C or SIGTERM."""
COULD_NOT = (ExitCode.LOAD, ExitCode.SERVER, ExitCode.USAGE)
_WORST_FIRST = (*COULD_NOT, ExitCode.FAIL, ExitCode.INVALID, ExitCode.INCONCLUSIVE)


def exit_code(night: Night) -> ExitCode:
    """One code for all cells: what could not be run, then FAIL, INVALID, INCONCLUSIVE. PASS: every cell passed.

    A cell that was not run is undecided, so a night that left one out is never PASS.
    """
    codes = {ExitCode.INCONCLUSIVE if cell.exit_code is None else ExitCode(cell.exit_code) for cell in night.cells}
    if night.stopped.startswith(INTERRUPTED) and all(cell.exit_code is None for cell in night.cells):
        return ExitCode.INTERRUPTED
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.PASS)


def label(cell: CellRecord) -> str:
    """The word that stands for a cell: its verdict, else what became of it."""
    return str(cell.verdict) if cell.verdict is not None else cell.status.upper()


def tally(cells: Sequence[CellRecord]) -> str:
    """``7 PASS, 1 FAIL, 1 NOT RUN``: what there is, in the order of what a reader wants to know first."""
    labels = [label(cell) for cell in cells]
    known = [*(str(each) for each in Verdict), Status.FAILED.upper(), Status.NOT_RUN.upper(), Status.WAITING.upper()]
    return ", ".join(f"{labels.count(each)} {each}" for each in known if each in labels)


def sentence(night: Night) -> str:
    """The night in one sentence, and the worst cell's own."""
    code = exit_code(night)
    told = f"{'FAILED' if code in COULD_NOT else code.name}: {night.name}, night {night.night}: {tally(night.cells)}"
    told += f"; {night.stopped}" if night.stopped else ""
    worst = next((cell for cell in night.cells if code is not ExitCode.PASS and cell.exit_code == code), None)
    if worst is None:
        return f"{told}."
    return f"{told}. {worst.scenario} / {worst.stack} ({worst.variant}): {worst.sentence.rstrip('.')}."
