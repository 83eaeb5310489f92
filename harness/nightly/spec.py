"""What a night is to run: ``kind: nightly``, read as strictly as every other specification."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.errors import SpecError
from harness.fields import Count, Name, NonNegative, Positive, Spec
from harness.strict_yaml import load_specs

BASE_VARIANT = "base"


class Variant(Spec):
    """Settings of one variant of the load, as ``harness run`` takes them; what is missing is the catalog's own."""

    users: Count | None = None
    think_time_s: NonNegative | None = None
    rate_rps: Positive | None = None
    arrivals: str | None = None
    output_tokens: Count | None = None
    input_tokens: Count | None = None
    run_time_s: Positive | None = None
    calibration: Literal["roofline", "claims"] | None = None
    faults: str = ""
    until_decided: bool = False
    """End a cell as soon as every check is decided; ``run_time_s`` is then the most."""
    min_time_s: Positive | None = None
    abort_on: tuple[str, ...] = ()
    """Such as ``error_rate > 20%``: end a hopeless cell."""
    seed: int = 1
    real: bool = False
    """Start stacks on GPUs and APIs for real."""
    allow_other_gpu: bool = False
    max_cost_usd: Positive | None = None
    """Of one cell. The file is the consent that ``harness run`` would ask for."""


class Block(Spec):
    """Every scenario against every stack in every variant."""

    scenarios: Annotated[tuple[Name, ...], Field(min_length=1)]
    stacks: tuple[Name, ...] = ()
    """Empty: each scenario's own."""
    variants: Annotated[tuple[Name, ...], Field(min_length=1)] = (BASE_VARIANT,)


class Keep(Spec):
    """What stays on the disk. A FAIL, a baseline and everything of the last ``nights`` nights stays whole."""

    days: Count = 14
    then: Literal["compact", "delete"] = "compact"
    """``compact`` drops the token gaps, most of a run's bytes; ``delete`` leaves the night's record and page alone."""
    nights: Count = 7
    """So many of the newest stay whole whatever the clock says: it may be wrong by years."""
    baselines: tuple[str, ...] = ()
    """Nights (``20261122-020000``) or cells of them (``20261122-020000/chatbot--vllm-7b-t4--base``)."""


class Notify(Spec):
    """Where the one-sentence verdict goes: a webhook that takes ``{"text": ...}``."""

    url_env: str
    """Name of the environment variable that holds its URL, which is a secret and stands in no file."""
    when: Literal["always", "not-pass"] = "always"
    link: str = ""
    """Where the summary can be read; ``{night}`` becomes the night's name. Empty: its path."""

    @model_validator(mode="after")
    def _holds_a_name(self) -> Self:
        """Of the whole model: an error of the field would repeat what was given, which may be the secret itself."""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.url_env):
            raise ValueError("url_env is the name of an environment variable, such as SLA_WEBHOOK, not the URL itself")
        return self

    @model_validator(mode="after")
    def _link_names_the_night_only(self) -> Self:
        unknown = [name for name in re.findall(r"\{([^}]*)\}", self.link) if name != "night"]
        if unknown:
            raise ValueError(f"link has {{{unknown[0]}}}; allowed: {{night}}")
        return self


class Nightly(Spec):
    kind: Literal["nightly"]
    name: Name
    title: str = ""
    runs: str = "runs/nightly"
    """Folder of all nights; from the working directory, unless it begins with ``/``."""
    profile: Literal["quick", "full"] = "quick"
    catalog: tuple[str, ...] = ()
    """YAML files or folders on top of the built-in catalog, beside this file."""
    matrix: Annotated[tuple[Block, ...], Field(min_length=1)]
    variants: dict[Name, Variant] = {}
    order: Literal["as-written", "shortest-first", "not-passed-first"] = "as-written"
    """``not-passed-first``: what did not PASS last night, or was not run, leads; then as written."""
    budget_s: Positive | None = None
    """A cell that would not end within it is NOT RUN; None: no end."""
    resume_within_s: Positive = 18 * 3600.0
    """``--resume`` goes on with an unfinished night that began at most this long ago."""
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    """Of what is no result: a server that did not stand up, a load generator that crashed, INVALID. Never of a FAIL."""
    retry_wait_s: NonNegative = 30.0
    cell_timeout_s: Positive | None = None
    """After which a cell is ended; None: three times its own length, and ten minutes."""
    min_free_gib: NonNegative = 2.0
    """The disk of ``runs`` must have this much free before each cell."""
    keep: Keep = Keep()
    results: str = ""
    """``s3://BUCKET/PREFIX`` or ``file:///FOLDER``: each cell is copied there when it is judged."""
    notify: Notify | None = None

    @model_validator(mode="after")
    def _variants_are_known(self) -> Self:
        used = {name for block in self.matrix for name in block.variants}
        unknown = sorted(used - set(self.variants) - {BASE_VARIANT})
        if unknown:
            known = ", ".join(sorted({*self.variants, BASE_VARIANT}))
            raise ValueError(f"matrix names the variant '{unknown[0]}', which is not in 'variants': {known}")
        return self

    def variant(self, name: str) -> Variant:
        return self.variants.get(name, Variant())


def load_nightly(path: Path) -> Nightly:
    """Read one night's file.

    Raises
    ------
    SpecError
        With every mistake and its line.
    """
    ((_, spec),) = load_specs([path], {"nightly": Nightly})
    if not isinstance(spec, Nightly):
        raise SpecError([f"{path}: holds no nightly"])
    return spec
