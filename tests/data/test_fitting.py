"""Which size, how many frames and which condition suit a set of clips: rules, checked by going through all cases."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvgan.data.fitting import fit_condition, fit_frames, fit_size, fit_size_of_shards
from fastvgan.data.media.types import cover
from fastvgan.errors import UserError

SIDES = (16, 32, 64)
SIZE = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (720, 1280, (32, 64)),  # of 16:9 a square keeps 56%, twice as wide as high 89%
        (480, 640, (64, 64)),
        (1280, 720, (64, 32)),
        (64, 64, (64, 64)),
        (63, 63, (32, 32)),
        (32, 32, (32, 32)),
        (48, 64, (32, 32)),
        (40, 64, (32, 64)),
        (100, 1000, (16, 64)),
        (10, 10, (16, 16)),  # nothing is smaller
        (8, 100, (16, 64)),
    ],
)
def test_the_size_of_alike_clips(height, width, expected):
    assert fit_size([(height, width)] * 3) == expected


def compute_enlargement(shown, size):
    return max(1, size[0] / shown[0], size[1] / shown[1])


def compute_kept_area(shown, size):
    """The share of a frame's area that is left of it, where it is scaled to just cover `size`."""
    scale = max(size[0] / shown[0], size[1] / shown[1])
    return size[0] * size[1] / (shown[0] * scale * shown[1] * scale)


@given(SIZE)
def test_no_other_size_crops_less_without_enlarging_more(shown):
    size = fit_size([shown])
    for other in ((height, width) for height in SIDES for width in SIDES):
        if compute_enlargement(shown, other) <= compute_enlargement(shown, size):
            assert compute_kept_area(shown, other) <= compute_kept_area(shown, size) + 1e-9
            if abs(compute_kept_area(shown, other) - compute_kept_area(shown, size)) < 1e-9:
                assert other[0] * other[1] <= size[0] * size[1]
        else:
            assert compute_enlargement(shown, size) < compute_enlargement(shown, other)


@given(st.lists(st.tuples(st.integers(16, 200), st.integers(16, 200)), min_size=1, max_size=30))
def test_most_clips_are_not_enlarged_in_height_nor_in_width(sizes):
    for side, chosen in enumerate(fit_size(sizes)):
        assert chosen in SIDES
        assert 2 * sum(size[side] >= chosen for size in sizes) >= len(sizes)


@given(SIZE, st.sampled_from((16, 32, 64, 128)), st.booleans())
def test_a_side_that_is_settled_stays(shown, side, is_height):
    size = fit_size([shown], height=side) if is_height else fit_size([shown], width=side)
    assert size[not is_height] == side and size[is_height] <= max(64, side)
    for other in SIDES:
        rival = (side, other) if is_height else (other, side)
        if compute_enlargement(shown, rival) <= compute_enlargement(shown, size):
            assert compute_kept_area(shown, rival) <= compute_kept_area(shown, size) + 1e-9


def test_beside_a_side_that_is_larger_than_64_the_other_may_be_as_large():
    assert fit_size([(480, 640)], height=128) == (128, 128) and fit_size([(480, 640)], width=128) == (128, 128)


def test_a_few_odd_clips_change_nothing():
    assert fit_size([(480, 640)] * 5 + [(2, 2), (16, 2000)]) == (64, 64)
    assert fit_size([(16, 16)] * 5 + [(480, 640)] * 4) == (16, 16)


@given(st.lists(SIZE, min_size=1, max_size=5), st.sampled_from((16, 32, 64, 128)), st.sampled_from((16, 32, 64, 128)))
def test_shards_fit_what_they_were_made_for(shown, height, width):
    """Frames that were made to just cover a size can be trained at it, so that there always is one."""
    try:
        made = [cover(size, height, width) for size in shown]
    except Exception:  # too slim for a clip
        return
    size = fit_size_of_shards(made)
    assert all(cover(frame, *size) == frame for frame in made)
    if all(frame == (height, width) for frame in made):
        assert size == (height, width)
    assert fit_size_of_shards(made, height, width) == (height, width)


def test_shards_of_no_size_that_models_have_are_refused():
    with pytest.raises(UserError, match="frames of 48x40, made for no size that models have; prepare the data again"):
        fit_size_of_shards([(40, 48)] * 2)
    with pytest.raises(UserError, match=r"made for no size of --height 128; .* or leave --height 128 out"):
        fit_size_of_shards([(64, 64)], height=128)


@pytest.mark.parametrize(
    ("lengths", "stride", "expected"),
    [([16], 1, 16), ([15], 1, 8), ([300], 1, 16), ([2], 1, 4), ([31], 2, 16), ([30], 2, 8), ([5, 5, 90], 1, 4)],
)
def test_as_many_frames_as_half_of_the_clips_have(lengths, stride, expected):
    assert fit_frames(lengths, stride) == expected


@given(st.lists(st.integers(4, 100), min_size=1), st.integers(1, 9))
def test_half_of_the_clips_need_no_frame_held(lengths, stride):
    frames = fit_frames(lengths, stride)
    enough = sum(len(range(0, length, stride)) >= frames for length in lengths)
    assert frames == 4 or 2 * enough >= len(lengths)


def clips(*annotations):
    return [SimpleNamespace(captions=captions, label=label) for captions, label in annotations]


@pytest.mark.parametrize(
    ("annotations", "part", "says"),
    [
        ([(("a dog",), "x"), (("a cat",), "y")], "text", "clips have captions: "),
        ([(("a dog",), None), ((), None)], "text", "1 of 2 clips have captions: "),
        ([((), "x"), ((), "y")], "class", "have no captions; the model is conditioned on their 2 classes"),
        ([((), "x"), ((), "x")], "none", "the model is unconditional"),  # one class tells nothing
        ([((), "x"), ((), "y"), *[((), None)] * 3], "none", "the model is unconditional"),  # most have none
        ([((), None)] * 2, "none", "--condition none"),
        ([(("a dog",), None), ((), None), ((), None)], "none", "1 of 3 clips have captions, fewer than half"),
        ([(("a dog",), "x"), ((), "y"), ((), "y")], "class", "1 of 3 clips have captions, fewer than half"),
        ([(("!",), None), (("?",), None)], "none", "clips have no captions"),  # not a word
    ],
)
def test_the_condition_that_clips_have(annotations, part, says):
    fitted = fit_condition(clips(*annotations))
    assert fitted.part == part and says in fitted.remark
