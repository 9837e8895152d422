"""Where the method meets Stable Diffusion 3.5.

Start with `dense_attention.py`. A pass of the transformer is read in `forward_pass.py`, edited by
the attention processors of `processors.py`, and told where every token belongs by
`token_regions.py` and `spans.py`. `prompts.py` makes the arguments of the pipeline's call, `preview.py` shows all this
before any sampling.
"""

from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.preview import preview
from densenb.sd3.processors import project
from densenb.sd3.prompts import call_inputs, encode, substitute
from densenb.sd3.spans import find_spans, token_ids
from densenb.sd3.token_regions import text_regions

__all__ = [
    "call_inputs",
    "dense_attention",
    "encode",
    "find_spans",
    "preview",
    "project",
    "substitute",
    "text_regions",
    "token_ids",
]
