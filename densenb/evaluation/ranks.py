"""Does a ranking of methods also hold on another model or on other scenes?"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """How far two lists of scores of the same methods agree on their order, from -1 to 1.

    Of all pairs of methods, the share that both put in the same order, minus the share that they
    put in opposite orders; a tie counts for neither (Kendall 1938). Two random orders give 0 on
    average. Raises ValueError for lists of different lengths or with fewer than two scores. Taught
    in notebook 08.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"kendall_tau got {len(first)} and {len(second)} scores: give the scores of the same "
            "two methods or more."
        )
    a, b = (torch.as_tensor(scores, dtype=torch.double) for scores in (first, second))
    i, j = torch.triu_indices(len(a), len(a), offset=1)
    return ((a[i] - a[j]).sign() * (b[i] - b[j]).sign()).mean().item()
