"""What can be loaded, and whether it fits.

Start with `load.py`. `tiers.py` has each model's defaults: size, steps, guidance, setting.
`architecture.py` has what SD 3.5 is made of, such as the layers of medium and large. Full-size
models go through `memory_plan.py` (does it fit, in which precision), `download.py`,
`load_planned.py`, `four_bits.py` and `text_encoders.py` (loaded on demand). Taught in notebook 01.
"""
