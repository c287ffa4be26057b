"""What a fault is, and the tally of what came of it."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

# What may come of a fault that is survived.
REFUSED = "refused"  # an error that names what is wrong, and the remedy
HARMLESS = "harmless"  # the right result nevertheless
RESUMED = "resumed"  # killed, and gone on to the same result
UNSEEN = "unseen"  # another result, where no format has a checksum that would tell


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    kind   the row of the report that it is counted in
    what   words with which it can be found again
    meet   meets it, and returns what came of it; raises where it is not survived
    """

    kind: str
    what: str
    meet: Callable[[], str]


@dataclass
class Tally:
    """kind -> how many faults ended how; and those that were not survived, with the reason."""

    counts: dict[str, Counter] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def meet(self, faults: Iterable[Fault]) -> Tally:
        """Meet every fault, and count what comes of it."""
        for fault in faults:
            count = self.counts.setdefault(fault.kind, Counter())
            try:
                count[fault.meet()] += 1
            except Exception:
                count["not survived"] += 1
                self.failures.append(f"{fault.kind}: {fault.what}\n{traceback.format_exc()}")
        return self

    def total(self, *outcomes: str) -> int:
        """Return how many faults ended so; all of them without a name."""
        return sum(
            number
            for count in self.counts.values()
            for outcome, number in count.items()
            if not outcomes or outcome in outcomes
        )
