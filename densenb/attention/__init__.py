"""Computing modulated attention, whichever model it is for.

`explicit.py` is the definition, with every score in sight. `fused.py` gives the same without
keeping the scores: by parts of a softmax (`partial_softmax.py`), the range of each row
(`row_ranges.py`) and, on a GPU with Triton, `kernels.py`. docs/attention.md has the measurements.
"""
