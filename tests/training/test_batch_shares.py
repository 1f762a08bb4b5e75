"""How a batch is divided among processes and parts: only if they compute what the whole batch would."""

import pytest
from tiny import tiny

from fastvgan.errors import UserError
from fastvgan.training.batches import advise_smaller_parts
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run.resume import Start


def begin(folder, model=None, **settings):
    return TrainingLoop(tiny(model, **settings), Start(folder))


@pytest.mark.parametrize(("size", "accumulate"), [(6, 4), (4, 4), (5, 2)])
def test_a_batch_that_cannot_be_divided_is_refused(tmp_path, size, accumulate):
    with pytest.raises(UserError, match=f"--batch-size {size} cannot be shared by 1 processes in {accumulate} parts"):
        begin(tmp_path / "r", batch_size=size, accumulate=accumulate)


@pytest.mark.parametrize(("settings", "parts"), [({}, 2), ({"accumulate": 2}, 4), ({"batch_size": 6}, None)])
def test_what_needs_less_memory_is_possible(tmp_path, settings, parts):
    """The advice is what begin() takes: half of a part, unless it would be no batch."""
    settings = {"batch_size": 8, "diversity": 1.0, **settings}
    advice = advise_smaller_parts(tiny(**settings), 1)
    assert ("--accumulate" in advice) == (parts is not None) and "a smaller --batch-size" in advice
    if parts:
        assert f"resume with --accumulate {parts}, or " in advice
        begin(tmp_path / "r", **settings | {"accumulate": parts})


PAIRED = [{"diversity": 1.0}, {"feature_diversity": 1.0, "diversity": 0.0}, {"matching_aware": True}]


@pytest.mark.parametrize("training", PAIRED, ids=str)
def test_parts_that_would_divide_pairs_of_clips_are_refused(tmp_path, training):
    """In parts of three clips, the third has no partner, and the next part's pairs are others than the batch's."""
    model = {"condition": ("image",) if "matching_aware" in training else ("class",)}
    sentence = "--batch-size 6 leaves 3 clips to each of 2 parts, but clips are compared in pairs .* a multiple of 4$"
    with pytest.raises(UserError, match=sentence):
        begin(tmp_path / "r", model=model, batch_size=6, accumulate=2, **training)
    other = {**training, "diversity": 0.0, "feature_diversity": 0.0, "matching_aware": False}
    for settings in ({"batch_size": 8, "accumulate": 2, **training}, {"batch_size": 6, "accumulate": 2, **other}):
        begin(tmp_path / "r", model=model, **settings)
    begin(tmp_path / "r", model=model, batch_size=5, **training)  # one part has the pairs of the whole batch


@pytest.mark.parametrize(("size", "accumulate", "multiple"), [(4, 2, 8), (12, 2, 8), (3, 1, 4)])
def test_parts_that_would_not_show_the_frames_of_the_whole_batch_are_refused(tmp_path, size, accumulate, multiple):
    model = {"discriminators": ("frame",), "frame_every": 4}
    sentence = f"--frame-every 4: .* parts of {size // accumulate} clips .* a multiple of {multiple}, or"
    with pytest.raises(UserError, match=sentence) as raised:
        begin(tmp_path / "r", model=model, batch_size=size, accumulate=accumulate)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("size", "accumulate"), [(4, 1), (5, 1), (8, 2)])
def test_parts_that_show_all_frames_are_taken(tmp_path, size, accumulate):
    model = {"discriminators": ("frame",), "frame_every": 4}
    assert begin(tmp_path / "r", model=model, batch_size=size, accumulate=accumulate, steps=1).run() == 0
