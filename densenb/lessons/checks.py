"""All checks of the notebooks' exercises, and the report of those that were passed.

A check prints "ok: ..." for a right answer, and raises `CheckFailed` with what to try next for a
wrong one.
"""

from densenb.lessons.adaptive_scaling import check_moved_scores, check_push_only, check_value_range
from densenb.lessons.checking import CheckFailed
from densenb.lessons.cross_attention import check_attends, check_own_words_only
from densenb.lessons.first_transfer import (
    check_masked_row,
    check_renormalised,
    check_scaled_scores,
)
from densenb.lessons.hand_in import report
from densenb.lessons.load_sd35 import check_four_bits, check_guidance
from densenb.lessons.measure import check_kendall_tau, check_mean_iou, check_paired_interval
from densenb.lessons.see_joint_attention import check_phrase_map, check_prediction, check_text_mass
from densenb.lessons.segments import check_soft_masks, check_substitute, check_token_count
from densenb.lessons.self_attention import check_own_share, check_region_bias, check_same_pixels
from densenb.lessons.start_here import check_layout_moved

__all__ = [
    "CheckFailed", "check_attends", "check_four_bits", "check_guidance", "check_kendall_tau",
    "check_layout_moved", "check_masked_row", "check_mean_iou", "check_moved_scores",
    "check_own_share", "check_own_words_only", "check_paired_interval", "check_phrase_map",
    "check_prediction", "check_push_only", "check_region_bias", "check_renormalised",
    "check_same_pixels", "check_scaled_scores", "check_soft_masks", "check_substitute",
    "check_text_mass", "check_token_count", "check_value_range", "report",
]  # fmt: skip
