"""Checks of the notebooks' exercises, one file for each notebook with exercises.

`checks.py` collects them for the notebooks. `checking.py` has the decorator and the helpers that
every check uses, and `hand_in.py` writes down which exercises were passed.
"""
