"""Options that several commands take, and what they load."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.judgement import Judgement

CatalogOption = Annotated[
    list[Path] | None, typer.Option("--catalog", help="Your own YAML file or folder, on top of the built-in catalog.")
]
OtherGpuOption = Annotated[
    bool, typer.Option("--allow-other-gpu", help="Run a --real stack on other GPUs than its own, and mark the run.")
]
UntilDecidedOption = Annotated[
    bool, typer.Option("--until-decided", help="End the run as soon as every check is decided, at the latest in time.")
]
MinTimeOption = Annotated[
    float | None, typer.Option("--min-time", help="Seconds before which --until-decided ends nothing.")
]
AbortOnOption = Annotated[
    list[str] | None, typer.Option("--abort-on", help="End a hopeless run: 'error_rate > 20%'. May be repeated.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="The folder of runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else.")]


def loaded_catalog(extra: list[Path] | None) -> Catalog:
    from harness.catalog import load_catalog

    for path in extra or ():
        if not path.exists():
            raise UsageError(f"--catalog {path}: there is no such file or folder")
    return load_catalog(tuple(path.resolve() for path in extra or ()))


def recorded_judgements(paths: Iterable[Path]) -> list[Judgement]:
    """Judgements of run directories, or of folders of them; a run without one is judged now."""
    from harness.recorded import judgements_of
    from harness.runlog import run_directories

    return judgements_of(directory for path in paths for directory in run_directories(path))


def write_report(judgements: list[Judgement], path: Path, catalog: Catalog) -> Path:
    from harness.matrix import report_of

    return report_of(judgements, path, catalog)
