"""Covering arrays: few configurations in which every two values of any two options stand together."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Options = Mapping[str, Sequence[Any]]
Pair = tuple[tuple[str, int], tuple[str, int]]  # (option, place of its value), twice


def pairs_of(options: Options, possible: Callable[[dict[str, Any]], bool]) -> set[Pair]:
    """All pairs of values of two options that are possible together."""
    return {
        ((a, i), (b, j))
        for a, b in combinations(options, 2)
        for i, j in product(range(len(options[a])), range(len(options[b])))
        if possible({a: options[a][i], b: options[b][j]})
    }


def gain(name: str, value: int, chosen: dict[str, int], left: set[Pair]) -> int:
    """How many pairs that are left a value makes with what is chosen."""
    return sum({((name, value), one), (one, (name, value))} & left != set() for one in chosen.items())


def covering(options: Options, possible: Callable[[dict[str, Any]], bool], seed: int = 0) -> list[dict[str, int]]:
    """Configurations, option ↦ place of its value, greedily: each begins with a pair that none before it has.

    Args:
        possible: whether a part of a configuration is; asked of pairs, and of what is chosen so far.
    """
    left, found, draw = pairs_of(options, possible), [], random.Random(seed)
    while left:
        chosen = dict(min(left))
        for name in draw.sample(list(options), len(options)):
            if name in chosen:
                continue
            said = {k: options[k][i] for k, i in chosen.items()}
            gains = {
                i: gain(name, i, chosen, left)
                for i in range(len(options[name]))
                if possible({**said, name: options[name][i]})
            }
            best = [i for i, k in gains.items() if k == max(gains.values())]
            chosen[name] = draw.choice(best)
        found.append(chosen)
        left -= {((a, chosen[a]), (b, chosen[b])) for a, b in combinations(options, 2)}
    return found
