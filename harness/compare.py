"""Is B better than A? From judged launches to differences with intervals, and a verdict.

A launch has luck of its own (placement, clocks, caches, the order in which memory was given out), so requests of one
launch say how that launch was, and only several launches say how a stack is. The launch is the unit:

- launches made in turn are paired by round: Student's t over the rounds' differences, so that what drifts from round
  to round cancels;
- otherwise Welch's t over the two groups of launches (Welch, 1947);
- with a single launch each, the interval comes from ten blocks of each launch (sectioning: Asmussen & Glynn, 2007,
  III.5) and holds for these two launches, never for the stacks: the verdict is "too few samples".

Times, rates and costs are compared by ratio, on logarithms; shares by difference. A difference counts when zero lies
outside its interval and it is at least the smallest one that matters. The headline takes the metrics of the SLA and
corrects for their number and for that of the arms (Holm, 1979).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.comparison import ArmResult, Comparison, Difference, Finding, Launch, Pair
from harness.differences import FEWEST_LAUNCHES, METRICS, Rules, difference, effect_text, launches_text
from harness.errors import UsageError
from harness.judgement import Mark
from harness.statistics import alpha_of, holm

WINDOW_TOLERANCE = 0.1


def compare(
    arms: Sequence[ArmResult],
    rules: Rules,
    *,
    title: str = "",
    question: str = "",
    experiment: str = "",
    interleaved: bool = False,
    command: str = "",
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare every arm with the first.

    Raises
    ------
    UsageError
        When the arms' scenarios differ, an arm mixes stacks, or some runs were emulated and others were not.
    """
    _require_comparable(arms)
    used = [_used(arm) for arm in arms]
    first = arms[0].launches[0]
    headline = rules.headline or first.headline
    pairs = [
        _Pair(arms[0], arm, used[0], launches, rules, headline, interleaved)
        for arm, launches in zip(arms[1:], used[1:], strict=True)
    ]
    family = [each for pair in pairs for each in pair.headline()]
    p_values = [1.0 if each.p_value is None else each.p_value for each in family]
    rejected = holm(p_values, alpha_of(rules.confidence))
    corrected = {id(each): wrong for each, wrong in zip(family, rejected, strict=True)}
    return Comparison(
        title=title or " against ".join(arm.label for arm in reversed(arms)),
        question=question,
        experiment=experiment,
        scenario=first.scenario,
        scenario_title=first.scenario_title,
        min_effect=rules.min_effect,
        min_points=rules.min_points,
        confidence=rules.confidence,
        interleaved=interleaved,
        arms=tuple(arms),
        pairs=tuple(pair.concluded(corrected) for pair in pairs),
        notes=(*notes, *_notes(arms)),
        command=command,
    )


def _require_comparable(arms: Sequence[ArmResult]) -> None:
    if len(arms) < 2 or not all(arm.launches for arm in arms):
        raise UsageError("a comparison needs at least one run of each of two arms")
    scenarios = list(dict.fromkeys(launch.scenario for arm in arms for launch in arm.launches))
    if len(scenarios) > 1:
        raise UsageError(f"runs of different scenarios cannot be compared: {', '.join(scenarios)}")
    for arm in arms:
        stacks = list(dict.fromkeys(launch.stack for launch in arm.launches))
        if len(stacks) > 1:
            raise UsageError(f"{arm.label} holds runs of several stacks, {', '.join(stacks)}: an arm is one of them")
    emulated = {launch.emulated for arm in arms for launch in arm.launches}
    if len(emulated) > 1:
        raise UsageError("some of these runs were emulated and others were not: their difference says nothing")


def _used(arm: ArmResult) -> list[Launch]:
    return [launch for launch in arm.launches if not launch.left_out]


class _Pair:
    """B against A before the headline's correction, which needs all pairs."""

    def __init__(
        self,
        a: ArmResult,
        b: ArmResult,
        used_a: list[Launch],
        used_b: list[Launch],
        rules: Rules,
        headline: tuple[str, ...],
        interleaved: bool,
    ) -> None:
        self.a, self.b, self.rules = a, b, rules
        self.paired = interleaved
        if interleaved:
            rounds = {x.round for x in used_a} & {x.round for x in used_b}
            used_a = sorted((x for x in used_a if x.round in rounds), key=lambda x: x.round or 0)
            used_b = sorted((x for x in used_b if x.round in rounds), key=lambda x: x.round or 0)
        self.used_a, self.used_b = used_a, used_b
        same = {x.streamed for x in (*used_a, *used_b)} != {True, False}
        self.differences = []
        for name, metric in METRICS.items():
            if name.startswith("perceived") and same:
                continue
            found = difference(name, metric, used_a, used_b, rules, paired=interleaved)
            if found is not None:
                self.differences.append(found.model_copy(update={"headline": name in headline}))

    def headline(self) -> list[Difference]:
        return [each for each in self.differences if each.headline]

    def concluded(self, corrected: dict[int, bool]) -> Pair:
        differences = []
        for each in self.differences:
            said = None
            if each.headline:
                counts = each.finding not in (Finding.BETTER, Finding.WORSE) or corrected[id(each)]
                said = each.finding if counts else Finding.NO_DIFFERENCE
            differences.append(each.model_copy(update={"headline_finding": said}))
        headline = [each for each in differences if each.headline]
        finding = _whole([each.headline_finding for each in headline])
        if not self.used_a or not self.used_b:
            finding = Finding.TOO_FEW
        return Pair(
            a=self.a.label,
            b=self.b.label,
            finding=finding,
            sentence=self._sentence(finding, headline),
            differences=tuple(differences),
            notes=_pair_notes(self.a, self.b, self.used_a, self.used_b, self.rules),
        )

    def _sentence(self, finding: Finding, headline: Sequence[Difference]) -> str:
        counts = f"{launches_text(len(self.used_a))} of {self.a.label} and {len(self.used_b)} of {self.b.label}"
        match finding:
            case Finding.BETTER | Finding.WORSE | Finding.MIXED:
                found = [each for each in headline if each.headline_finding in (Finding.BETTER, Finding.WORSE)]
                told = "; ".join(f"{each.headline_finding} in {each.label}, {_change(each)}" for each in found)
                return f"{self.b.label} is {told} ({counts})"
            case Finding.NO_DIFFERENCE:
                told = "; ".join(f"{each.label} {_change(each)}" for each in headline if each.effect is not None)
                alone = [each.label for each in headline if each.finding in (Finding.BETTER, Finding.WORSE)]
                if alone:
                    told += f"; taken alone {' and '.join(alone)} would differ, but of several one may by chance"
                return f"no difference shown between {self.b.label} and {self.a.label}: {told} ({counts})"
            case Finding.TOO_FEW if min(len(self.used_a), len(self.used_b)) >= FEWEST_LAUNCHES:
                return f"too few samples for {_unsaid(headline, finding)} ({counts})"
            case Finding.TOO_FEW:
                return (
                    f"too few samples to say anything of the stacks: {counts}, and a verdict needs "
                    f"{FEWEST_LAUNCHES} of each with enough requests"
                )
            case _ if headline:
                return f"not measured: {_unsaid(headline, finding)} ({counts})"
            case _:
                return f"no metric of the headline was measured in both {self.a.label} and {self.b.label} ({counts})"


def _unsaid(headline: Sequence[Difference], finding: Finding) -> str:
    """Headline metrics of a finding, and why the first of them is one; what is known of the rest."""
    found = [each for each in headline if each.headline_finding is finding]
    rest = [f"{each.label} {_change(each)}" for each in headline if each not in found and each.effect is not None]
    told = f"{', '.join(each.label for each in found)}: {found[0].reason}"
    return f"{told}; no difference shown in {'; '.join(rest)}" if rest else told


def _change(each: Difference) -> str:
    assert each.effect is not None
    interval = (
        ""
        if each.low is None or each.high is None
        else f" [{effect_text(each, each.low)} to {effect_text(each, each.high)}]"
    )
    return effect_text(each, each.effect) + interval


def _whole(found: Sequence[Finding | None]) -> Finding:
    if Finding.BETTER in found and Finding.WORSE in found:
        return Finding.MIXED
    for finding in (Finding.WORSE, Finding.BETTER, Finding.TOO_FEW, Finding.NOT_MEASURED, Finding.NO_DIFFERENCE):
        if finding in found:
            return finding
    return Finding.NOT_MEASURED


# What a reader must know -------------------------------------------------------------------------


def _notes(arms: Sequence[ArmResult]) -> tuple[str, ...]:
    found = []
    launches = [launch for arm in arms for launch in arm.launches]
    if launches[0].emulated:
        found.append("EMULATED: these are differences of a simulation, and hold for its model of the hardware")
    if any(Mark.CLAIM_REPLAYED in launch.marks for launch in launches):
        found.append("CLAIM REPLAYED: where claims are played back, a difference is that of the claims")
    for arm in arms:
        for launch in arm.launches:
            if launch.left_out:
                found.append(f"{arm.label}: {launch.directory or launch.run} is left out: {launch.left_out}")
    return tuple(found)


def _pair_notes(
    a: ArmResult, b: ArmResult, used_a: Sequence[Launch], used_b: Sequence[Launch], rules: Rules
) -> tuple[str, ...]:
    found = []
    names = dict.fromkeys(name for launch in (*used_a, *used_b) for name in launch.conditions)
    for name in names:
        mine, theirs = (sorted({x.conditions.get(name, "") for x in used}) for used in (used_a, used_b))
        if mine and theirs and mine != theirs and name not in rules.expected:
            told = f"{name} differ: {_few(mine)} in {a.label}, {_few(theirs)} in {b.label}"
            found.append(f"{told}; a difference may be its doing")
    windows = [[x.window_s for x in used if x.window_s] for used in (used_a, used_b)]
    if all(windows):
        every = [length for arm in windows for length in arm]
        if max(every) > (1 + WINDOW_TOLERANCE) * min(every):
            found.append(
                f"judged windows differ: {min(every):.3g} s to {max(every):.3g} s; a longer one sees more of the tail"
            )
    return tuple(found)


def _few(texts: Sequence[str]) -> str:
    shown = ", ".join(text or "none" for text in texts[:3])
    return f"{shown}, ..." if len(texts) > 3 else shown
