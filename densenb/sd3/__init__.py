"""The method inside Stable Diffusion 3.5.

Start with `dense_attention.py`. `forward_pass.py` reads a pass of the transformer, the attention
processors of `processors.py` edit it, and `token_regions.py` and `spans.py` find the region of
every token. `prompts.py` builds the arguments of the pipeline's call, and `preview.py` shows all
this before any sampling.
"""

from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.preview import preview
from densenb.sd3.processors import project
from densenb.sd3.prompts import call_inputs, encode, substitute
from densenb.sd3.spans import find_spans, token_ids
from densenb.sd3.token_regions import text_regions

__all__ = [
    "call_inputs", "dense_attention", "encode", "find_spans", "preview", "project", "substitute",
    "text_regions", "token_ids",
]  # fmt: skip
