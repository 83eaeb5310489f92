"""What must hold of every recommendation, whatever the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from harness.candidates import QUALITY_SCALE, Candidate, quality_rank
from harness.judgement import Verdict
from harness.ranking import SAME_COST
from harness.spec import QualityNeed, Word
from tests.unit.recommend_support import candidate, decide

CANDIDATES = st.builds(
    candidate,
    stack=st.sampled_from("abcdefgh"),
    verdict=st.sampled_from([Verdict.PASS, Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID]),
    quality=st.sampled_from([word for words in QUALITY_SCALE for word in words if word != "high"] + [None]),
    usd_per_query=st.none() | st.sampled_from([0.001, 0.001005, 0.00101, 0.00102, 0.002]) | st.floats(1e-6, 1),
    value=st.none() | st.floats(0.01, 10),
)
FIELDS = st.lists(CANDIDATES, max_size=8, unique_by=lambda each: each.stack)
COSTS = st.sampled_from(get_args(Word))
NEEDS = st.sampled_from(get_args(QualityNeed))


@given(field=FIELDS, cost=COSTS, quality=NEEDS, order=st.randoms(use_true_random=False))
def test_the_order_does_not_matter(field: list[Candidate], cost: Word, quality: QualityNeed, order: Any) -> None:
    mixed = field[:]
    order.shuffle(mixed)
    assert decide(*mixed, cost=cost, quality=quality) == decide(*field, cost=cost, quality=quality)


@given(field=FIELDS, cost=COSTS, quality=NEEDS)
def test_a_pick_passes_and_is_good_enough_and_everyone_is_accounted_for(
    field: list[Candidate], cost: Word, quality: QualityNeed
) -> None:
    found = decide(*field, cost=cost, quality=quality)
    eligible = {each.stack: each for each in field} | {}
    for name in found.dropped:
        del eligible[name]
    assert (found.pick is None) == (not eligible)
    if found.pick is None:
        return
    pick = eligible[found.pick]
    need, rank = quality_rank(quality), pick.rank
    assert pick.verdict is Verdict.PASS
    assert need is not None
    assert rank is not None
    assert rank >= need
    costs = [each.usd_per_query for each in eligible.values() if each.usd_per_query is not None]
    if cost == "low":
        assert rank == max(each.rank or 0 for each in eligible.values())
    elif costs:
        assert pick.usd_per_query is not None
        assert pick.usd_per_query <= min(costs) * (1 + SAME_COST) * (1 + 1e-12)


@given(
    field=FIELDS,
    cost=COSTS,
    quality=NEEDS,
    newcomer=CANDIDATES,
    verdict=st.sampled_from([Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID]),
)
def test_a_stack_that_does_not_pass_never_changes_the_pick(
    field: list[Candidate], cost: Word, quality: QualityNeed, newcomer: Candidate, verdict: Verdict
) -> None:
    before = decide(*field, cost=cost, quality=quality)
    after = decide(*field, replace(newcomer, stack="newcomer", verdict=verdict), cost=cost, quality=quality)
    assert (after.pick, after.ties, after.runner_up) == (before.pick, before.ties, before.runner_up)


@given(field=FIELDS, cost=COSTS, quality=NEEDS, share=st.floats(0.01, 0.99))
def test_a_cheaper_equal_never_makes_it_worse(
    field: list[Candidate], cost: Word, quality: QualityNeed, share: float
) -> None:
    before = decide(*field, cost=cost, quality=quality)
    if before.pick is None:
        return
    pick = next(each for each in field if each.stack == before.pick)
    cheaper = replace(
        pick, stack="newcomer", usd_per_query=None if pick.usd_per_query is None else pick.usd_per_query * share
    )
    after = decide(*field, cheaper, cost=cost, quality=quality)
    chosen = next(each for each in [*field, cheaper] if each.stack == after.pick)
    if pick.usd_per_query is not None:
        assert chosen.usd_per_query is not None
        assert chosen.usd_per_query <= pick.usd_per_query
    assert (chosen.rank or 0) >= (pick.rank or 0)


@given(field=FIELDS, cost=COSTS, quality=NEEDS)
def test_without_the_pick_it_is_the_runner_up(field: list[Candidate], cost: Word, quality: QualityNeed) -> None:
    found = decide(*field, cost=cost, quality=quality)
    if found.pick is not None:
        rest = [each for each in field if each.stack != found.pick]
        assert decide(*rest, cost=cost, quality=quality).pick == found.runner_up
        assert set(found.ties) <= {each.stack for each in rest}
