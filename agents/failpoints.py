"""Places in the commit protocols at which the fault laboratory (tests/faults) ends or freezes this process.

`hit` is None in the product: nothing sets it, no setting or variable reaches it, and a point costs one look at a name
per epoch, mail or range. The laboratory's own entry, tests/faults/process.py, puts a function there before the start.
"""

from collections.abc import Callable

# engine: one epoch, in the order of docs/guarantees.md
OUTPUTS_SENT = "outputs-sent"
OUTPUTS_ACKED = "outputs-acked"
CHANGELOG_ACKED = "changelog-acked"
WRITTEN = "written"
ACKED = "acked"
COMMITTED = "committed"
# engine: partitions are taken away
QUIESCED = "quiesced"
REVOKED = "revoked"
# delivery: one attempt
SENDING = "sending"
ANSWERED = "answered"
RECORDED = "recorded"
# sink: one range
ANNOUNCED = "announced"
INSERTED = "inserted"
FINISHED = "finished"

ENGINE = (OUTPUTS_SENT, OUTPUTS_ACKED, CHANGELOG_ACKED, WRITTEN, ACKED, COMMITTED, QUIESCED, REVOKED)
DELIVERY = (SENDING, ANSWERED, RECORDED)
SINK = (ANNOUNCED, INSERTED, FINISHED)

hit: Callable[[str], None] | None = None
