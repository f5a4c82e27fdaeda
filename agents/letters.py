"""What does not fit its topic: outputs become dead letters, dead letters go without their bytes.

A record that the broker refuses would end the worker, and end it again after each restart: nothing that a producer, a
profile or a campaign can bring about may come that far. Sizes are those before compression, so they are the same
whatever the client does.
"""

from agents.topics import LARGE_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX
from schemas.ids import h128
from schemas.records import DeadLetter

TOO_LARGE_OUTPUT = "too-large-output"
# A record batch's own header has 61 bytes, a record's lengths some 20, a letter's headers a few hundred.
OVERHEAD_BYTES = 4_096
OUTPUT_BYTES_MAX = MESSAGE_BYTES_MAX - OVERHEAD_BYTES
LETTER_BYTES_MAX = LARGE_MESSAGE_BYTES_MAX - OVERHEAD_BYTES
NEVER_WRITTEN = -1


def letter_of_output(topic: str, partition: int, key: bytes, value: bytes, failed_at_ms: int) -> DeadLetter:
    """Make the letter for an output larger than its topic takes; `offset` is -1, for it was never written there.

    Replayed once the topic takes it, it goes where it was to go.
    """
    message = f"{topic}: larger than {OUTPUT_BYTES_MAX} bytes (got {len(value)}, member {hash_of(key)})"
    return DeadLetter(topic, partition, NEVER_WRITTEN, TOO_LARGE_OUTPUT, message, failed_at_ms, key, value)


def fitting(letter: DeadLetter) -> DeadLetter:
    """Return the letter, without its bytes if the topic of dead letters would not take them.

    A compressed batch brings records that are larger than the topic's own bound. The place stays known: the original
    is there for as long as its topic keeps it.
    """
    size = len(letter.key or b"") + len(letter.value or b"")
    if size <= LETTER_BYTES_MAX:
        return letter
    message = f"{letter.message}; its {len(letter.value or b'')} bytes are too many to be kept here"
    key = letter.key if len(letter.key or b"") <= OVERHEAD_BYTES else None
    return DeadLetter(
        letter.topic, letter.partition, letter.offset, letter.reason, message, letter.failed_at_ms, key, None
    )


def hash_of(key: bytes) -> str:
    """Name a member as logs do (`tidings/logs.py`): equal for equal members, without saying who it is."""
    return f"#{h128(key.decode('utf-8', 'backslashreplace'))[:12]}"
