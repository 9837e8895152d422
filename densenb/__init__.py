"""DenseDiffusion for Stable Diffusion 3.5: paint regions, bind a phrase to each; the frozen model
follows.

    import densenb as dnb

    pipe = dnb.load("tiny")
    layout = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [
        dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
        dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
    ])
    images = dnb.generate(pipe, layout, seeds=range(4), config=dnb.DenseConfig.tuned(pipe))
"""

import logging as _python_logging

from transformers.utils import logging as _logging

# bitsandbytes, which diffusers imports where it is installed, looks for a faster kernel of another
# package on some processors, and warns where there is none; nothing here needs it
_python_logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(_python_logging.ERROR)
# transformers says at length that it has no torchvision for image processors nobody uses here
_verbosity = _logging.get_verbosity()
_logging.set_verbosity_error()

from densenb.attention import dense_attention  # noqa: E402
from densenb.baselines import HardMask  # noqa: E402
from densenb.layout import Layout, Region, regions_from_label_map  # noqa: E402
from densenb.masks import box, ellipse, mask_from_array, mask_from_png, polygon  # noqa: E402
from densenb.modulation import DenseConfig  # noqa: E402
from densenb.pipelines import generate, generators, load, load_or_tiny, tier  # noqa: E402
from densenb.preview import preview  # noqa: E402
from densenb.recorder import record_attention  # noqa: E402

_logging.set_verbosity(_verbosity)

__all__ = [
    "DenseConfig", "HardMask", "Layout", "Region", "box", "dense_attention", "ellipse", "generate",
    "generators", "load", "load_or_tiny", "mask_from_array", "mask_from_png", "polygon", "preview",
    "record_attention", "regions_from_label_map", "tier",
]  # fmt: skip
__version__ = "0.1.0"
