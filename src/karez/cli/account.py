"""The last lines of a run: what was collected and what became of it."""

from __future__ import annotations

from typing import Any

from karez.accounts import Balance, balances, roles


def account(snapshots: list[dict[str, Any]], waiting: dict[str, bool], exact: bool) -> int:
    """Print what was collected and what became of it; 1 if anything is lost, or, where it must be exact, still under way."""
    accounts = balances(snapshots, waiting)
    counted = [worker for snapshot in snapshots for worker in roles(snapshot)]
    collected = sum(sum(worker["emitted"].values()) for worker in counted)
    before = sum(worker["dead"] for worker in counted if worker["kind"] != "aggregator")
    if not accounts or not any(worker["kind"] == "connector" for worker in counted):
        print(f"collected {collected}, stored {sum(found.stored for found in accounts)}, dead letters {before}", flush=True)
        return 0
    for found in accounts:
        print(
            f"{found.aggregator}: collected {found.collected}, stored {found.stored}, dead letters {found.dead}{_rest(found)}", flush=True
        )
    total = _total([found for found in accounts if not found.is_late] or accounts)
    own = [found for found in accounts if not found.is_shared and not found.is_late]
    lost = sum(found.open for found in own if not found.waits)
    waits = sum(found.open for found in own if found.waits)
    later = f" ({waits} wait on the bus for the next start)" if waits else ""
    later += " (with other processes, each counts its own part)" if any(found.is_shared for found in accounts) else ""
    print(f"collected {total[0] + before}, stored {total[1]}, dead letters {total[2] + before}, lost {lost}{later}", flush=True)
    return 1 if lost or (exact and waits) else 0


def _rest(found: Balance) -> str:
    if found.is_shared:
        return "; other processes store for it as well"
    if found.is_late:
        return "; it was added by a reload"
    return f", on the bus {found.open}" if found.waits else f", lost {found.open}"


def _total(accounts: list[Balance]) -> tuple[int, int, int]:
    """Where every aggregator was to get the same number, that is what was collected; else the sums over them."""
    if len({found.collected for found in accounts}) == 1:
        return accounts[0].collected, min(found.stored for found in accounts), max(found.dead for found in accounts)
    return sum(a.collected for a in accounts), sum(a.stored for a in accounts), sum(a.dead for a in accounts)
