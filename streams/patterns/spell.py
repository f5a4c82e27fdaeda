"""Did you mean: the nearest of a few known words."""

from collections.abc import Iterable

_LONGEST = 64  # a longer word is not a typing slip of anything we know


def distance(left: str, right: str, most: int) -> int:
    """Count the edits (insert, delete, replace, swap neighbours) from one word to another; `most + 1` for more."""
    if abs(len(left) - len(right)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most and (not before or min(before) > most):
            return most + 1
    return min(row[-1], most + 1)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Find the known word that `word` is most likely a slip of; None when nothing is near.

    Near is one edit for words of up to 5 letters, two up to 9, three beyond. Case does not count. Ties: first in order.
    """
    if not word or len(word) > _LONGEST:
        return None
    low = word.lower()
    most = 1 if len(low) <= 5 else 2 if len(low) <= 9 else 3
    best: tuple[int, str] | None = None
    for candidate in sorted(known):
        if candidate.lower() == low:
            return candidate
        edits = distance(low, candidate.lower(), most)
        if edits <= most and edits < len(low) and (best is None or edits < best[0]):
            best = (edits, candidate)
    return best[1] if best else None
