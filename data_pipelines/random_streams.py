"""Independent streams of random numbers for the input pipeline, one per purpose."""

import random


def generator(*purpose: object) -> random.Random:
    """Python's generator, seeded by the purpose, e.g. ("mask words", seed, epoch, row, language).

    A pure function of the printed parts, the same in every process and version of Python. So the
    numbers do not change when a run resumes or is shared among processes, and no two purposes share
    a stream.
    """
    return random.Random(" ".join(map(str, purpose)))
