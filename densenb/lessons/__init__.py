"""Checks of the notebooks' exercises.

`checks.py` has them all at hand for a notebook; `checking.py` is what each is made of, and
`hand_in.py` writes down what was passed.
"""
