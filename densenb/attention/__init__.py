"""Computing modulated attention, for any model.

`explicit.py` is the definition, with the whole score matrix. `fused.py` gives the same result
without storing the scores: from parts of a softmax (`partial_softmax.py`), the range of each row
(`row_ranges.py`) and, on a GPU with Triton, `kernels.py`. docs/attention.md has the measurements.
"""
