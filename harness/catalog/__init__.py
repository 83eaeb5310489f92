"""The catalog: every scenario, stack, GPU and profile that has a name.

Read from the YAML files beside this one, and from a user's own directory on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from harness.errors import SpecError, unknown_name
from harness.experiments import Experiment
from harness.spec import Gpu, HardwareFile, Profile, Scenario, Spec, Stack
from harness.strict_yaml import load_specs

ROOT = Path(__file__).parent
WORKLOADS = ROOT / "workloads"


@dataclass(frozen=True)
class Catalog:
    scenarios: dict[str, Scenario]
    stacks: dict[str, Stack]
    gpus: dict[str, Gpu]
    profiles: dict[str, Profile]
    experiments: dict[str, Experiment] = field(default_factory=dict)

    def scenario(self, name: str) -> Scenario:
        if name not in self.scenarios:
            raise unknown_name("scenario", name, self.scenarios)
        return self.scenarios[name]

    @property
    def unasked_scenarios(self) -> list[Scenario]:
        """What runs when no scenario is named: all but variants of another one."""
        return [scenario for scenario in self.scenarios.values() if scenario.variant_of is None]

    def stack(self, name: str) -> Stack:
        if name not in self.stacks:
            raise unknown_name("stack", name, self.stacks)
        return self.stacks[name]

    def profile(self, name: str) -> Profile:
        if name not in self.profiles:
            raise unknown_name("profile", name, self.profiles)
        return self.profiles[name]

    def experiment(self, name: str) -> Experiment:
        if name not in self.experiments:
            raise unknown_name("experiment", name, self.experiments)
        return self.experiments[name]

    def gpu_of(self, stack: Stack) -> Gpu | None:
        """The stack's GPU, None for an API or a CPU."""
        return None if stack.hardware is None else self.gpus[stack.hardware.gpu]


@cache
def load_catalog(extra: tuple[Path, ...] = ()) -> Catalog:
    """Read the built-in catalog and ``extra`` files or directories on top (a later name replaces an earlier).

    Raises
    ------
    SpecError
        With every problem of every file.
    """
    paths = [*_yaml_files(ROOT)]
    for path in extra:
        paths.extend(_yaml_files(path) if path.is_dir() else [path])
    return build_catalog(load_specs(paths))


def build_catalog(specs: Iterable[tuple[Path, Spec]]) -> Catalog:
    """Index specifications by name and check that they refer to known ones."""
    catalog = Catalog({}, {}, {}, {})
    origin: dict[str, Path] = {}
    for path, spec in specs:
        match spec:
            case Scenario():
                catalog.scenarios[spec.name] = spec
                origin[f"scenario {spec.name}"] = path
            case Stack():
                catalog.stacks[spec.name] = spec
                origin[f"stack {spec.name}"] = path
            case HardwareFile():
                catalog.gpus.update({gpu.name: gpu for gpu in spec.gpus})
            case Profile():
                catalog.profiles[spec.name] = spec
            case Experiment():
                catalog.experiments[spec.name] = spec
                origin[f"experiment {spec.name}"] = path
    problems = [*_dangling(catalog, origin)]
    if problems:
        raise SpecError(problems)
    return catalog


def _dangling(catalog: Catalog, origin: dict[str, Path]) -> Iterable[str]:
    for scenario in catalog.scenarios.values():
        for name in (*scenario.stacks, *scenario.variants, *scenario.real):
            if name not in catalog.stacks:
                yield f"{origin[f'scenario {scenario.name}']}: {unknown_name('stack', name, catalog.stacks)}"
        if scenario.variant_of is not None and scenario.variant_of not in catalog.scenarios:
            where = origin[f"scenario {scenario.name}"]
            yield f"{where}: {unknown_name('scenario', scenario.variant_of, catalog.scenarios)}"
    for stack in catalog.stacks.values():
        where = origin[f"stack {stack.name}"]
        if stack.hardware is not None and stack.hardware.gpu not in catalog.gpus:
            yield f"{where}: {unknown_name('GPU', stack.hardware.gpu, catalog.gpus)}"
        for name in {*stack.claims, *stack.reduction, *stack.quality, *stack.templates}:
            if name not in catalog.scenarios:
                yield f"{where}: {unknown_name('scenario', name, catalog.scenarios)}"

    for experiment in catalog.experiments.values():
        where = origin[f"experiment {experiment.name}"]
        if experiment.scenario not in catalog.scenarios:
            yield f"{where}: {unknown_name('scenario', experiment.scenario, catalog.scenarios)}"
        for name in dict.fromkeys(arm.stack for arm in (*experiment.arms, *experiment.real)):
            if name not in catalog.stacks:
                yield f"{where}: {unknown_name('stack', name, catalog.stacks)}"


def _yaml_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.yaml") if path.is_file())
