"""The scores, on label maps drawn by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densenb.evaluation import metrics, same_noun

LEFT = (slice(16, 48), slice(4, 28))
RIGHT = (slice(16, 48), slice(36, 60))
CAT, DOG = 3, 7  # nouns
RED, BLUE, TEAL = 0, 6, 4  # colours


def mask(*places) -> torch.Tensor:
    grid = torch.zeros(64, 64, dtype=torch.bool)
    for rows, cols in places:
        grid[rows, cols] = True
    return grid


def labels(*painted) -> tuple[torch.Tensor, torch.Tensor]:
    """Label maps [1, 64, 64] from (place, noun, colour) triples; colour -1 is natural."""
    noun_map, colour_map = torch.zeros(2, 1, 64, 64, dtype=torch.long)
    for (rows, cols), noun, colour in painted:
        noun_map[0, rows, cols] = noun + 1
        colour_map[0, rows, cols] = colour + 2
    return noun_map, colour_map


def score(painted, nouns=(CAT, DOG), colours=(RED, BLUE), seconds=None, masks=None, **options):
    masks = torch.stack(masks or [mask(LEFT), mask(RIGHT)])[None]
    second = None if seconds is None else torch.tensor([seconds])
    nouns, colours = torch.tensor([nouns]), torch.tensor([colours])
    return metrics.score_objects(*labels(*painted), masks, nouns, colours, second, **options)


def values(tensor: torch.Tensor) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 4) for value in tensor[0].tolist()]


def test_a_perfect_picture_scores_full_marks():
    scores = score([(LEFT, CAT, RED), (RIGHT, DOG, BLUE)])
    assert metrics.aggregate(scores) == {
        "mIoU": 100, "mIoU_present": 100, "in_mask": 100, "presence": 100,
        "colour_binding": 100, "leakage": 0, "box_iou": 100, "phrase_binding": 100,
    }  # fmt: skip


def test_swapped_objects_are_present_but_misplaced_and_leak():
    scores = score([(LEFT, DOG, BLUE), (RIGHT, CAT, RED)])
    assert values(scores.present) == [1, 1]
    assert values(scores.iou) == [0, 0]
    assert values(scores.in_mask) == [0, 0]
    assert values(scores.colour_bound) == [1, 1]  # the colour follows the object, not the mask
    assert values(scores.leakage) == [1, 1]


def test_an_absent_object_counts_in_miou_and_presence_only():
    scores = score([(LEFT, CAT, RED)])
    assert values(scores.iou) == [1, 0]
    assert values(scores.present) == [1, 0]
    assert values(scores.in_mask) == [1, None]
    assert values(scores.colour_bound) == [1, None]
    means = metrics.aggregate(scores)
    assert means["mIoU"] == 50 and means["mIoU_present"] == 100 and means["in_mask"] == 100


def test_iou_and_in_mask_of_a_half_overlapping_object():
    half_out = (slice(32, 64), LEFT[1])  # as large as the mask, half of it below
    scores = score([(half_out, CAT, RED), (RIGHT, DOG, BLUE)])
    assert values(scores.iou) == [round(1 / 3, 4), 1]
    assert values(scores.in_mask) == [0.5, 1]


@pytest.mark.parametrize(
    ("side", "mask_side", "present"),
    [(4, 8, True), (3, 8, False), (12, 32, False), (13, 32, True)],
)
def test_presence_needs_a_share_of_the_picture_and_of_the_mask(side, mask_side, present):
    square = (slice(0, side), slice(0, side))  # 16 pixels at least, and 15 % of the mask
    region = mask((slice(20, 20 + mask_side), slice(20, 20 + mask_side)))
    scores = score([(square, CAT, RED)], nouns=[CAT], colours=[RED], masks=[region])
    assert values(scores.present) == [float(present)]


def test_colour_is_the_majority_and_natural_is_a_vote():
    top, bottom = (slice(16, 36), LEFT[1]), (slice(36, 48), LEFT[1])
    one = {"nouns": [CAT], "colours": [RED], "masks": [mask(LEFT)]}
    assert values(score([(top, CAT, RED), (bottom, CAT, BLUE)], **one).colour_bound) == [1]
    assert values(score([(top, CAT, BLUE), (bottom, CAT, RED)], **one).colour_bound) == [0]
    assert values(score([(top, CAT, -1), (bottom, CAT, RED)], **one).colour_bound) == [0]


def test_background_colour_does_not_vote():
    one = {"nouns": [CAT], "colours": [RED], "masks": [mask(LEFT)]}
    noun_map, colour_map = labels((LEFT, CAT, RED))
    colour_map[0, 16:44] = 0  # most of the cat, where the two heads of an oracle disagree
    scores = metrics.score_objects(
        noun_map, colour_map, mask(LEFT)[None, None], *(torch.tensor([one[k]]) for k in
        ("nouns", "colours")),
    )  # fmt: skip
    assert values(scores.colour_bound) == [1]


def test_natural_objects_are_scored_on_demand():
    one = {"nouns": [CAT], "colours": [-1], "masks": [mask(LEFT)]}
    assert values(score([(LEFT, CAT, -1)], **one).colour_bound) == [None]
    assert values(score([(LEFT, CAT, -1)], **one, natural=True).colour_bound) == [1]
    assert values(score([(LEFT, CAT, RED)], **one, natural=True).colour_bound) == [0]


def test_two_colours_need_both_at_the_top_in_any_order():
    top, bottom = (slice(16, 36), LEFT[1]), (slice(36, 48), LEFT[1])
    one = {"nouns": [CAT], "colours": [RED], "seconds": [TEAL], "masks": [mask(LEFT)]}
    assert values(score([(top, CAT, RED), (bottom, CAT, TEAL)], **one).colour_bound) == [1]
    assert values(score([(top, CAT, TEAL), (bottom, CAT, RED)], **one).colour_bound) == [1]
    assert values(score([(top, CAT, RED), (bottom, CAT, BLUE)], **one).colour_bound) == [0]
    assert values(score([(LEFT, CAT, RED)], **one).colour_bound) == [0]


def test_leakage_counts_foreign_nouns_and_foreign_colours_once():
    top = (slice(16, 24), LEFT[1])  # a quarter of the region
    next_quarter = (slice(24, 32), LEFT[1])
    painted = [(LEFT, CAT, RED), (RIGHT, DOG, BLUE), (top, DOG, BLUE), (next_quarter, CAT, BLUE)]
    assert values(score(painted).leakage) == [0.5, 0]


def test_a_shared_colour_or_a_natural_look_does_not_leak():
    assert values(score([(LEFT, CAT, RED)], colours=[RED, RED]).leakage) == [0, 0]
    assert values(score([(LEFT, CAT, -1)], colours=[RED, -1]).leakage) == [0, 0]
    second = score([(LEFT, CAT, BLUE)], colours=[RED, BLUE], seconds=[BLUE, -1])
    assert values(second.leakage) == [0, 0]


def test_where_masks_overlap_neither_object_leaks():
    wide = mask((LEFT[0], slice(4, 60)))
    scores = score([(LEFT, CAT, RED), (RIGHT, DOG, BLUE)], masks=[wide, mask(RIGHT)])
    assert values(scores.leakage) == [0, 0]


def test_a_lone_object_has_no_leakage_and_empty_slots_no_score():
    scores = score([(LEFT, CAT, RED)], nouns=[CAT, -1], colours=[RED, -1])
    assert values(scores.leakage) == [None, None]
    assert values(scores.iou) == [1, None] and values(scores.present) == [1, None]


def test_twins_share_the_pixels_of_their_noun():
    below_left = (slice(52, 60), slice(4, 28))  # outside of both masks, nearer to the left one
    scores = score([(LEFT, CAT, RED), (RIGHT, CAT, BLUE), (below_left, CAT, RED)], nouns=[CAT, CAT])
    assert values(scores.iou) == [0.8, 1]
    assert values(scores.colour_bound) == [1, 1]
    assert values(score([(RIGHT, CAT, BLUE)], nouns=[CAT, CAT]).present) == [0, 1]


def test_one_object_between_two_twins_counts_once():
    between = (slice(20, 44), slice(24, 40))  # reaches a little into either mask
    scores = score([(between, CAT, RED)], nouns=[CAT, CAT])
    assert values(scores.present) == [1, 0]
    aside = (slice(20, 44), slice(26, 36))
    scores = score([(aside, CAT, RED)], nouns=[CAT, CAT])
    assert values(scores.present) == [1, 0] and values(scores.in_mask) == [0.2, None]
    beyond = (slice(50, 60), slice(22, 46))  # below, its middle nearer to the right mask
    scores = score([(beyond, CAT, RED)], nouns=[CAT, CAT])
    assert values(scores.present) == [0, 1] and values(scores.in_mask) == [None, 0]


def test_a_twin_in_the_place_of_the_other_is_not_its_own():
    scores = score([(RIGHT, CAT, RED)], nouns=[CAT, CAT])  # the red cat belongs on the left
    assert values(scores.present) == [0, 1] and values(scores.iou) == [0, 1]
    assert values(scores.colour_bound) == [None, 0]
    assert values(scores.phrase_bound) == [0, 0]
    swapped = score([(LEFT, CAT, BLUE), (RIGHT, CAT, RED)], nouns=[CAT, CAT])
    assert values(swapped.iou) == [1, 1] and values(swapped.colour_bound) == [0, 0]
    assert values(swapped.phrase_bound) == [0, 0]


def test_blobs_are_connected_by_corners_and_split_by_gaps():
    spiral = torch.zeros(9, 9, dtype=torch.bool)
    spiral[0], spiral[:, 8], spiral[8], spiral[2:, 0], spiral[2, :7] = (True,) * 5
    assert len(same_noun.connected(spiral)) == 1
    spiral[5, 4] = spiral[4, 5] = True  # touch by a corner, nothing else
    blobs = same_noun.connected(spiral)
    assert len(blobs) == 2 and sorted(blobs.sum((1, 2)).tolist()) == [2, int(spiral.sum()) - 2]
    assert len(same_noun.connected(torch.zeros(4, 4, dtype=torch.bool))) == 0


def test_a_phrase_wins_its_region_by_noun_and_colour():
    assert values(score([(LEFT, CAT, RED), (RIGHT, DOG, BLUE)]).phrase_bound) == [1, 1]
    assert values(score([(LEFT, DOG, BLUE), (RIGHT, CAT, RED)]).phrase_bound) == [0, 0]
    assert values(score([(LEFT, CAT, TEAL)]).phrase_bound) == [0, 0]  # of a colour nobody asked for
    assert values(score([(LEFT, CAT, TEAL)], colours=[-1, BLUE]).phrase_bound) == [1, 0]
    half = (slice(16, 30), LEFT[1])
    mostly_dog = score([(LEFT, DOG, BLUE), (half, CAT, RED), (RIGHT, DOG, BLUE)])
    assert values(mostly_dog.phrase_bound) == [0, 1]


def test_phrases_of_the_same_words_do_not_compete_and_seconds_count():
    same = score([(LEFT, CAT, RED)], nouns=[CAT, CAT], colours=[RED, RED])
    assert values(same.phrase_bound) == [1, 0]
    one = {"nouns": [CAT, DOG], "seconds": [TEAL, -1]}
    assert values(score([(LEFT, CAT, TEAL)], **one).phrase_bound) == [1, 0]
    assert values(score([(LEFT, CAT, RED), (RIGHT, DOG, -1)], **one).phrase_bound) == [1, 0]


def test_masks_on_another_grid_are_refused():
    with pytest.raises(ValueError, match="to_grid"):
        metrics.score_objects(
            *labels(), torch.ones(1, 1, 32, 32, dtype=torch.bool), torch.tensor([[0]]),
            torch.tensor([[0]]),
        )  # fmt: skip


def test_to_grid_keeps_cells_that_are_half_covered():
    fine = torch.zeros(256, 256)
    fine[0:4, 0:2] = 1  # exactly half of the first cell
    fine[0:4, 4:5] = 1  # a quarter of the second
    grid = metrics.to_grid(fine)
    assert grid.shape == (64, 64) and grid.sum() == 1 and grid[0, 0]


def test_token_grid_ceiling_of_known_masks():
    aligned = mask((slice(16, 32), slice(16, 32)))
    shifted = mask((slice(17, 33), slice(16, 32)))  # rounds to 16..32
    tiny = mask((slice(9, 10), slice(9, 10)))  # under half of any token: keeps its best one
    ceiling = metrics.token_grid_ceiling(torch.stack([aligned, shifted, tiny, mask()])[None])
    assert values(ceiling) == [1, round(15 / 17, 4), round(1 / 16, 4), None]


def test_the_ceiling_of_boxes_compares_bounding_boxes():
    ring = mask((slice(16, 48), slice(16, 48))) & ~mask((slice(18, 46), slice(18, 46)))
    outline = metrics.token_grid_ceiling(ring[None, None])
    assert outline < 0.6  # the line is half a token wide
    assert metrics.token_grid_ceiling(ring[None, None], boxes=True) == 1


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(0, 63)] * 4), st.tuples(*[st.integers(0, 63)] * 4))
def test_box_iou_is_the_mask_iou_of_filled_boxes(a, b):
    boxes = []
    for x0, y0, x1, y1 in (a, b):
        boxes.append(
            mask((slice(min(y0, y1), max(y0, y1) + 1), slice(min(x0, x1), max(x0, x1) + 1)))
        )
    assert torch.allclose(metrics.box_iou(*boxes), metrics.iou(*boxes))


def test_box_iou_sees_the_extent_only_and_nothing_is_nowhere():
    ring = mask(LEFT) & ~mask((slice(20, 44), slice(8, 24)))
    assert metrics.box_iou(ring, mask(LEFT)) == 1
    assert metrics.box_iou(mask(), mask(LEFT)) == 0
    assert metrics.bounding_box(mask(LEFT)).tolist() == [4, 16, 28, 48]


def test_kid_is_near_zero_for_one_distribution_and_grows_with_the_shift():
    draw = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(200, 8, generator=draw) for _ in range(3))

    def distance(x, y):
        return metrics.kid(x, y, torch.Generator().manual_seed(1))

    same, spread = distance(a, b)
    near, far = distance(a, c + 0.5)[0], distance(a, c + 1.5)[0]
    assert abs(same) < 5 * spread + 20 and near > same and far > 2 * near
    assert distance(a, b) == (same, spread)  # the generator alone decides


def test_kid_matches_the_definition_on_full_sets():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 4, generator=draw, dtype=torch.double)

    def mean_kernel(p, q, skip):
        pairs = [(i, j) for i in range(len(p)) for j in range(len(q)) if not (skip and i == j)]
        return sum((float(p[i] @ q[j]) / 4 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)
    assert metrics._unbiased_mmd2(x, y).item() == pytest.approx(expected)


def test_kid_refuses_too_few_rows():
    with pytest.raises(ValueError, match="at least 4"):
        metrics.kid(torch.zeros(3, 2), torch.zeros(9, 2), torch.Generator())


def test_bootstrap_interval_holds_the_mean_and_narrows_with_scenes():
    draw = torch.Generator().manual_seed(0)
    few = torch.rand(20, 3, generator=draw)
    few[:, 2] = torch.nan
    many = few.repeat(20, 1)
    low, high = metrics.bootstrap_interval(few, torch.Generator().manual_seed(1))
    tight = metrics.bootstrap_interval(many, torch.Generator().manual_seed(1))
    assert low < few.nanmean() < high
    assert tight[1] - tight[0] < 0.5 * (high - low)
    assert metrics.bootstrap_interval(torch.ones(5), torch.Generator()) == (1, 1)
    nothing = metrics.bootstrap_interval(torch.full((5, 2), torch.nan), torch.Generator())
    assert all(math.isnan(end) for end in nothing)
