"""How alike two texts are, in characters."""


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements of one character that make b of a."""
    row = list(range(len(b) + 1))
    for i, character in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (character != other))
    return row[-1]


def edit_similarity(a: str, b: str) -> float:
    """`1 - distance / length of the longer` (IntelliCode Compose, arXiv 2005.08025); 1 for two empty texts."""
    longer = max(len(a), len(b))
    return 1.0 if longer == 0 else 1 - edit_distance(a, b) / longer
