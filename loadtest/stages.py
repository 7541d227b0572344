"""How many listeners there are, and when: the shapes of a load."""

SHAPES = ("steady", "ramp", "spike")


def stages(shape: str, most: int, steps: int, seconds: float) -> list[tuple[float, int]]:
    """When each stage ends, and the users in it.

    steady: all of them from the start. ramp: in equal steps, to find the knee. spike: a fifth of them, for a third of
    the time all, and again a fifth.
    """
    if shape == "ramp":
        return [(seconds * (step + 1) / steps, max(1, round(most * (step + 1) / steps))) for step in range(steps)]
    if shape == "spike":
        few = max(1, most // 5)
        return [(seconds / 3, few), (2 * seconds / 3, most), (seconds, few)]
    return [(seconds, most)]
