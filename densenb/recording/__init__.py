"""Seeing attention while it runs.

Start with `recorder.py` (`record_attention`). `pooling.py` makes small tables and maps of each
layer's scores, `record.py` keeps and reads them, and `compare.py` records the stock and the steered
picture side by side. Taught in notebooks 02 and 11.
"""

from densenb.recording.compare import record_both
from densenb.recording.record import Record
from densenb.recording.recorder import record_attention

__all__ = ["Record", "record_attention", "record_both"]
