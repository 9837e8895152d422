"""Plausible mistakes in the library, each of which the notebook that teaches the matter must catch.

A mutant is applied inside a notebook's kernel before its first cell: `startup` writes the file that
IPython runs there.
"""

from __future__ import annotations

from pathlib import Path


def strength_zero() -> None:
    """The modulation computes everything, and moves nothing."""
    from densenb.modulation import dense_config

    weight = dense_config.query_weight
    dense_config.query_weight = lambda *given: 0 * weight(*given)


def transposed_mask() -> None:
    """Rows and columns of the token grid change places."""
    from densenb.layout.layout import Layout

    masks = Layout.token_masks
    Layout.token_masks = lambda *given, **named: masks(*given, **named).transpose(1, 2).contiguous()


def token_order() -> None:
    """Text before image, as FLUX has it and SD 3.5 has not."""
    from densenb.sd3 import token_regions

    regions = token_regions.token_regions

    def turned(pipe, layout, rule, grid, t5_length, columns):
        member = regions(pipe, layout, rule, grid, t5_length, columns)
        return member.roll(len(member) - grid[0] * grid[1], dims=0)

    token_regions.token_regions = turned


def no_patch() -> None:
    """Processors are exchanged for some that do what the stock ones do."""
    from densenb.sd3.processors import DenseJointAttnProcessor

    def stock(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **rest):
        self.edited += 1
        return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, **rest)

    DenseJointAttnProcessor.__call__ = stock


MUTANTS = {  # name -> the mutant, the notebook that has to fail
    "strength_zero": (strength_zero, "05_adaptive_scaling"),
    "transposed_mask": (transposed_mask, "03_cross_attention_modulation"),
    "token_order": (token_order, "03_cross_attention_modulation"),
    "no_patch": (no_patch, "04_self_attention_modulation"),
}


def startup(ipython: Path, name: str) -> None:
    """Make kernels whose IPYTHONDIR is `ipython` begin with a mutant."""
    folder = ipython / "profile_default" / "startup"
    folder.mkdir(parents=True)
    here = str(Path(__file__).parent)
    lines = ("import sys", f"sys.path.insert(0, {here!r})", "import mutants", f"mutants.{name}()")
    (folder / "00-mutant.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
