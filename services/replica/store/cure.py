"""What may be done to a block that does not match its checksum, with another copy's content at hand (rule K3). Pure.

The stored checksum is that of the newest write, so content that matches it *is* that write, whoever offers it and
however late: it can never put an older write over a newer one. Any other content counts only as far as the offer is
*settled*: it comes from an in-sync copy, and no write of the block was under way there when it was asked, nor since.

    the offer is what the checksum says                the data are rotten           they are written again
    settled, and the offer is what the data say        the checksum is rotten        it is written again
    settled, and the region's root contradicts its     data and checksum are rotten  both are written again
    checksums
    else                                               nobody can tell               nothing is touched

*The disk loses the write w2 and keeps w1, with the checksum of w2. A copy that has not received w2 yet offers w1, and
data and offer agree. Were that taken for a rotten checksum, the acknowledged w2 would be gone here for ever.*
"""

from __future__ import annotations

from enum import Enum


class Cure(Enum):
    NONE_NEEDED = "none needed"
    DATA = "data"
    SUM = "sum"
    BOTH = "both"
    REFUSED = "refused"


def judge(stored: int, found: int, offered: int, *, settled: bool, disproved: bool) -> Cure:
    """`stored`: the checksum beside the block; `found`: that of its data as they are; `offered`: that of the other
    copy's content, which matches it. `disproved`: the region's root says that its checksums are not what was synced."""
    if stored == found:
        return Cure.NONE_NEEDED
    if offered == stored:
        return Cure.DATA
    if not settled:
        return Cure.REFUSED
    if offered == found:
        return Cure.SUM
    return Cure.BOTH if disproved else Cure.REFUSED
