"""What a command's cells will cost, worked out before anything starts, and the consent to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.arrivals import TraceArrivals
from harness.cell import Cell
from harness.cost import format_usd
from harness.dataset import read_trace, read_workload
from harness.errors import UsageError
from harness.schedule import arrival_times_s
from harness.spend import DEFAULT_CAP_USD, Estimate, estimate, prompt_sizes


def estimate_of(cell: Cell) -> Estimate | None:
    """Estimate one cell; None for one that pays nothing by the token.

    Raises
    ------
    UsageError
        For prompts or a trace that cannot be read, or a body that no cap can hold for.
    """
    tariff = cell.tariff
    if tariff is None or cell.max_cost_usd is None:
        return None
    scenario = cell.scenario
    timing, arrivals, tail_s = cell.timing, None, scenario.longest_limit_s
    if scenario.arrivals is not None:
        trace = read_trace(scenario.arrivals) if isinstance(scenario.arrivals, TraceArrivals) else None
        arrivals = len(arrival_times_s(scenario.arrivals, timing, tail_s, cell.seeds()["arrivals"], trace))
    return estimate(
        scenario,
        cell.stack,
        prompt_sizes(scenario.workload, read_workload(scenario.workload)),
        tariff,
        seconds=timing.spawn_s / 2 + timing.run_time_s + tail_s,  # users come evenly while they are spawned
        cap_usd=cell.max_cost_usd,
        arrivals=arrivals,
        reduced=cell.reduced,
    )


def agree_to_cost(
    cells: Sequence[Cell], *, max_cost_usd: float | None, yes: bool, ask: Callable[[str], bool] | None
) -> str:
    """Let nobody pay without having been told: ``ask`` puts the estimate to the user, None where nobody can be asked.

    ``max_cost_usd`` is what the user gave, for all cells together; None: the default cap, which must then be enough.
    Returns what the user was told, empty where nothing is paid by the token.

    Raises
    ------
    UsageError
        Without consent, with a cap that is none, or where the default cap is less than the expected cost.
    """
    if max_cost_usd is not None and not 0 < max_cost_usd < float("inf"):
        raise UsageError(f"--max-cost must be above 0 USD, not {max_cost_usd:g}")
    found = [each for each in map(estimate_of, cells) if each is not None]
    if not found:
        if max_cost_usd is not None:
            raise UsageError(
                "--max-cost limits what a stack with a price per token costs (price: kind: tokens), run for real by"
                " --real; nothing here pays for tokens"
            )
        return ""
    told = "; ".join(each.sentence for each in found)
    expected = sum(each.usd for each in found)
    if len(found) > 1:
        told += f"; together about {format_usd(expected)}, and the cap holds for all of them together"
    if max_cost_usd is None and expected > DEFAULT_CAP_USD:
        raise UsageError(
            f"{told}; that is more than the cap of {format_usd(DEFAULT_CAP_USD)} of a command that names none: give"
            " --max-cost USD, or ask for less (--users, --run-time, --output-tokens)"
        )
    if max_cost_usd is not None and expected > max_cost_usd:
        told += f"; expect the cap to end the load after about {max_cost_usd / expected:.0%} of it"
    if not yes and (ask is None or not ask(told)):
        raise UsageError(f"{told}; nothing was started{'' if ask else ': give --yes to agree to it'}")
    return told
