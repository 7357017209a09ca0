"""Random numbers of the input pipeline that depend on what they are for, and on nothing else."""

import random


def generator(*purpose: object) -> random.Random:
    """Python's generator, seeded by the purpose, e.g. ("mask words", seed, epoch, row, language).

    A pure function of the printed parts, the same in every process and version of Python: resuming
    a run or sharing it among processes changes no draw, and no two purposes share numbers.
    """
    return random.Random(" ".join(map(str, purpose)))
