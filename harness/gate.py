"""Whether judged runs let a change through: which checks block, which only warn.

A verdict is never changed here, only weighed. Where every check blocks, the gate is the worst verdict.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from harness.errors import ExitCode
from harness.fields import Name, Spec
from harness.judgement import Judgement, Verdict
from harness.nightly.record import CellRecord
from harness.records import Record

CELL = "cell"
"""In a rule, what concerns a cell and none of its checks: a server that died, drift, an INVALID run."""


class Action(StrEnum):
    BLOCK = "block"
    WARN = "warn"
    IGNORE = "ignore"


Word = Literal["block", "warn", "ignore"]


class Rule(Spec):
    """The first rule that fits a check decides. Patterns are those of file names: ``p95(*)``, ``vllm-*``."""

    scenario: str = "*"
    stack: str = "*"
    check: str = "*"
    """As the SLA writes it (``p95(e2e) < 2 s``), or the metric alone (``error_rate``); ``cell``: see :data:`CELL`."""
    action: Word
    reason: str = ""


class Policy(Spec):
    kind: Literal["policy"] = "policy"
    name: Name = "default"
    rules: Annotated[tuple[Rule, ...], Field(max_length=1000)] = ()
    otherwise: Word = "block"
    inconclusive: Word = "block"
    """The most that an undecided check may do, whatever its rule."""
    invalid: Word = "block"
    not_measured: Word = "ignore"
    """What a check that could not be measured does, beyond what the cell's verdict already says of it."""


class Finding(Record):
    """One thing that the gate weighed and that did not PASS."""

    run: str
    scenario: str
    stack: str
    check: str
    verdict: Verdict | None
    """None: the cell could not be run."""
    exit_code: int
    """That it asks for, should it block."""
    action: Action
    reason: str
    rule_reason: str = ""


class GateResult(Record):
    policy: str
    exit_code: int
    sentence: str
    cells: int
    passed: int
    findings: tuple[Finding, ...]
    """Those that block first, then those that warn; what is ignored is counted only."""
    ignored: int = 0
    unused_rules: tuple[int, ...] = ()
    """Places, from 1, of rules that no check met: misspelt, or about cells that are not here."""

    @property
    def blocking(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.action is Action.BLOCK)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.action is Action.WARN)


_STRENGTH = {Action.IGNORE: 0, Action.WARN: 1, Action.BLOCK: 2}
_WORST_FIRST = (ExitCode.LOAD, ExitCode.SERVER, ExitCode.USAGE, ExitCode.FAIL, ExitCode.INVALID, ExitCode.INCONCLUSIVE)


def gate(
    judgements: Sequence[Judgement],
    policy: Policy,
    *,
    not_judged: Sequence[CellRecord] = (),
    allow_inconclusive: bool = False,
    strict: bool = False,
) -> GateResult:
    """Weigh judged cells, and cells of a night that have no judgement, which always block.

    Parameters
    ----------
    allow_inconclusive
        What is undecided warns in place of blocking; nothing else is let through by it.
    strict
        Whatever the policy lets warn or ignores blocks, and so does what could not be measured.
    """
    used: set[int] = set()
    findings = [
        found for judgement in judgements for found in _findings(judgement, policy, used, allow_inconclusive, strict)
    ]
    findings += [_not_judged(cell, allow_inconclusive and not strict) for cell in not_judged]
    codes = {ExitCode(each.exit_code) for each in findings if each.action is Action.BLOCK}
    code = next((each for each in _WORST_FIRST if each in codes), ExitCode.PASS)
    if not judgements and not not_judged:
        code = ExitCode.INCONCLUSIVE  # nothing was looked at, so nothing passed
    shown = [each for each in findings if each.action is not Action.IGNORE]
    shown.sort(key=lambda each: -_STRENGTH[each.action])
    cells = len(judgements) + len(not_judged)
    passed = sum(judgement.verdict is Verdict.PASS for judgement in judgements)
    return GateResult(
        policy=policy.name,
        exit_code=int(code),
        sentence=_sentence(code, shown, cells, passed),
        cells=cells,
        passed=passed,
        findings=tuple(shown),
        ignored=len(findings) - len(shown),
        unused_rules=tuple(place for place in range(1, len(policy.rules) + 1) if place not in used),
    )


def _findings(
    judgement: Judgement, policy: Policy, used: set[int], allow_inconclusive: bool, strict: bool
) -> list[Finding]:
    found = []
    known = {check.reason for check in judgement.checks}
    about_cell = [reason for reason in judgement.reasons if reason not in known]
    wrong = [check for check in judgement.checks if check.verdict is not Verdict.PASS]
    weighed: list[tuple[str, str, Verdict, str]] = []
    if judgement.verdict is Verdict.INVALID:  # its checks decide nothing
        weighed.append((CELL, CELL, Verdict.INVALID, about_cell[0] if about_cell else judgement.sentence))
    else:
        weighed += [(check.text, check.metric, check.verdict, check.reason) for check in wrong]
        explained = any(check.verdict is judgement.verdict for check in wrong)
        if judgement.verdict is not Verdict.PASS and (about_cell or not explained):
            weighed.append((CELL, CELL, judgement.verdict, about_cell[0] if about_cell else judgement.sentence))
    for text, metric, seen, reason in weighed:
        place, asked, why = _rule(policy, judgement, text, metric)
        used.add(place)
        # A check may miss its limit while the whole cell, which corrects for the number of checks, is undecided.
        verdict = judgement.verdict if seen is Verdict.FAIL else seen
        action = Action.BLOCK if strict else _limited(asked, verdict, policy)
        if allow_inconclusive and verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_MEASURED):
            action = _at_most(action, Action.WARN)
        found.append(
            Finding(
                run=judgement.run,
                scenario=judgement.scenario,
                stack=judgement.stack,
                check=text,
                verdict=verdict,
                exit_code=int(verdict.exit_code),
                action=action,
                reason=reason,
                rule_reason=why,
            )
        )
    return found


def _limited(action: Action, verdict: Verdict, policy: Policy) -> Action:
    """A rule's action, with what the policy says of verdicts that are neither PASS nor FAIL."""
    if verdict is Verdict.FAIL:
        return action
    most = {
        Verdict.INCONCLUSIVE: policy.inconclusive,
        Verdict.INVALID: policy.invalid,
        Verdict.NOT_MEASURED: policy.not_measured,
    }[verdict]
    return _at_most(action, Action(most))


def _at_most(action: Action, most: Action) -> Action:
    return min(action, most, key=_STRENGTH.__getitem__)


def _rule(policy: Policy, judgement: Judgement, text: str, metric: str) -> tuple[int, Action, str]:
    for place, rule in enumerate(policy.rules, 1):
        cell = _fits(judgement.scenario, rule.scenario) and _fits(judgement.stack, rule.stack)
        if cell and (_fits(text, rule.check) or _fits(metric, rule.check)):
            return place, Action(rule.action), rule.reason
    return 0, Action(policy.otherwise), ""


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


def _not_judged(cell: CellRecord, may_be_left_out: bool) -> Finding:
    left_out = cell.exit_code is None
    return Finding(
        run="",
        scenario=cell.scenario,
        stack=cell.stack,
        check=CELL,
        verdict=Verdict.INCONCLUSIVE if left_out else None,
        exit_code=int(ExitCode.INCONCLUSIVE) if cell.exit_code is None else cell.exit_code,
        action=Action.WARN if left_out and may_be_left_out else Action.BLOCK,
        reason=f"{cell.status}: {cell.sentence}" if cell.sentence else str(cell.status),
    )


def _sentence(code: ExitCode, findings: Sequence[Finding], cells: int, passed: int) -> str:
    blocking = [each for each in findings if each.action is Action.BLOCK]
    warnings = len(findings) - len(blocking)
    told = f"{passed} of {cells} {'cell passes' if cells == 1 else 'cells pass'}"
    if blocking:
        first = blocking[0]
        told += f", {len(blocking)} {'finding blocks' if len(blocking) == 1 else 'findings block'}"
        told += f"; the first: {first.scenario} / {first.stack}: {first.reason.rstrip('.')}"
    if warnings:
        told += f"; {warnings} {'warning' if warnings == 1 else 'warnings'}"
    return f"{'open' if code is ExitCode.PASS else 'closed'}: {told}."
