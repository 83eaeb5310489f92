"""What a recorded run on an API paid, and how much of it was refused by rate limits; pure, for judging."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.cost import format_usd
from harness.manifest import Manifest
from harness.metrics import BoolArray
from harness.records import Outcome, SpendFacts, TokenSource
from harness.spec import TokenPrice
from harness.spend import tariff_of


def spend_facts(manifest: Manifest, table: pa.Table) -> SpendFacts | None:
    """The leader's own account; of a run that was killed, what its samples show, which is the least."""
    spend, price = manifest.spend, manifest.stack.price
    if spend is None or manifest.sealed or not isinstance(price, TokenPrice):
        return spend
    tariff = tariff_of(price, {})

    def total(name: str, rows: BoolArray) -> int:
        return int(np.maximum(table.column(name).to_numpy()[rows], 0).sum())

    said = np.asarray(pc.equal(table.column("token_source"), TokenSource.USAGE).to_numpy(), dtype=bool)
    everything = np.ones(len(said), dtype=bool)
    paid = tariff.usd(total("prompt_tokens", everything), total("output_tokens", said), total("cached_tokens", said))
    return spend.model_copy(update={"spent_usd": spend.spent_usd + paid})


def spend_notes(manifest: Manifest, spend: SpendFacts | None) -> list[str]:
    """How much was spent, how sure that is, and what the cap did to the run."""
    if spend is None:
        return []
    least = "" if manifest.sealed else "at least "
    note = f"the run spent {least}{format_usd(spend.spent_usd)} on tokens, of a cap of {format_usd(spend.cap_usd)}"
    if spend.assumed_usd:
        note += f"; {format_usd(spend.assumed_usd)} of it is the worst case of requests of unknown usage"
    notes = [note]
    if spend.reached_s is not None:
        notes.append(
            "the load ended at the spend cap: the next request could have exceeded it, were all those in flight to"
            " cost their worst; a higher --max-cost, or fewer or shorter requests, gives a whole run"
        )
    if spend.spent_usd > spend.cap_usd:
        notes.append("the API charged more tokens than were asked for, so the spend cap did not hold")
    return notes


def limit_notes(manifest: Manifest, table: pa.Table, rows: BoolArray) -> list[str]:
    """What share of the judged requests a rate limit refused or delayed, and which limit the server named."""
    details = manifest.server.details
    warning = str(details.get("rate limits", ""))
    notes = [f"before load: {warning}"] if warning else []
    judged = table.filter(pa.array(rows))
    limited = judged.filter(pc.equal(judged.column("outcome"), Outcome.RATE_LIMITED))
    retried = judged.filter(pc.and_(pc.equal(judged.column("outcome"), Outcome.OK), pc.greater(judged["retries"], 0)))
    if limited.num_rows:
        named = [
            f"{details[f'{what}/min allowed']:,} {what}"
            for what in ("requests", "tokens")
            if f"{what}/min allowed" in details
        ]
        limit = f"; the server names a limit of {' and '.join(named)} a minute" if named else ""
        notes.append(
            f"{limited.num_rows / judged.num_rows:.1%} of {judged.num_rows:,} judged requests were refused by a rate"
            f" limit (429){limit}; the first answer said: {limited.column('error')[0].as_py()}"
        )
    if retried.num_rows:
        notes.append(
            f"{retried.num_rows:,} judged requests were answered only after a retry; the wait is inside their latency"
        )
    return notes
