"""What can be loaded, and whether it fits.

Start with `load.py`. `tiers.py` says what differs between models. Full-size models go through
`memory_plan.py` (does it fit, in which precision; from the shapes of `architecture.py`),
`download.py`, `load_planned.py`, `four_bits.py` and `text_encoders.py` (loaded on demand).
Taught in notebook 01.
"""
