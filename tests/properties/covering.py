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


def covering(options: Options, possible: Callable[[dict[str, Any]], bool], seed: int = 0) -> list[dict[str, int]]:
    """Configurations, option ↦ place of its value, greedily: each begins with a pair that none before it has.

    Args:
        possible: whether a part of a configuration is; asked of pairs, and of what is chosen so far.
    """
    left, found, draw = pairs_of(options, possible), [], random.Random(seed)
    place = {name: k for k, name in enumerate(options)}
    while left:
        chosen = dict(min(left))
        for name in draw.sample(list(options), len(options)):
            if name in chosen:
                continue
            said = {k: options[k][i] for k, i in chosen.items()}
            values = [i for i in range(len(options[name])) if possible({**said, name: options[name][i]})]

            def gain(i: int, name: str = name, chosen: dict[str, int] = chosen) -> int:
                new = (sorted([(name, i), one], key=lambda x: place[x[0]]) for one in chosen.items())
                return sum(tuple(pair) in left for pair in new)

            draw.shuffle(values)
            chosen[name] = max(values, key=gain)
        found.append(chosen)
        left -= {((a, chosen[a]), (b, chosen[b])) for a, b in combinations(options, 2)}
    return found
