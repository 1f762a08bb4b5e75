"""Evaluations of functions with known faults: each fault must be detected, and real clips must score well."""

import numpy as np
import pytest
import torch
from stand_ins import DRAWN, StandIn, digits_model, noise

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, caption
from fastvgan.errors import UserError
from fastvgan.metrics.evaluation import CORRUPTIONS, Evaluator, peak_signal_to_noise, warnings
from fastvgan.metrics.prompts import TrainingDraws
from fastvgan.metrics.table import json_values, text_table

CLIPS = 240


@pytest.fixture(scope="module")
def digits():
    source = DigitsSource(hold_out=0.1)
    model = digits_model(source)
    evaluator = Evaluator(model, source, DigitsSource(split="test"), CLIPS, seen=TrainingDraws(0, DRAWN))
    return evaluator, StandIn(model, source)


@pytest.fixture(scope="module")
def real(digits):
    evaluator, stand_in = digits
    return evaluator.full(stand_in.real, noise)


def row(evaluation, measure):
    return next(row for row in evaluation.rows if row.measure.strip() == measure)


def test_real_clips_are_as_good_as_real_clips(real):
    scores = real.scores
    assert scores["joint"] >= 0.97 and scores["colour"] == 1 and scores["motion"] >= 0.99
    assert scores["held_out_joint"] >= 0.95
    assert scores["diversity"] == pytest.approx(1, abs=0.1)
    assert scores["copies"] == 0 and scores["same_digit"] >= 0.95
    nearest = row(real, "nearest of 4,000 training clips")
    assert nearest.generated == pytest.approx(nearest.real, rel=0.1)
    frechet, kernel = row(real, "Fréchet distance"), row(real, "kernel distance")
    assert frechet.generated.value == pytest.approx(frechet.real.value, rel=0.5)
    assert abs(kernel.generated.value) < 1.5 and abs(kernel.real.value) < 1.5
    assert real.warnings == []


def test_shuffled_captions_give_chance(real):
    by_chance = {"digit": 0.1, "colour": 1 / 6, "motion": 0.25, "joint": 1 / 240}
    for name, chance in by_chance.items():
        assert row(real, f"right {name}").shuffled == pytest.approx(chance, abs=0.04)


@pytest.mark.parametrize("name", ["Fréchet distance", "kernel distance"])
def test_distances_notice_what_is_wrong_with_real_clips(real, name):
    """Frozen, time-shuffled and blurred clips are farther away than the upper end of the real clips' interval."""
    at = real.rows.index(row(real, name))
    assert [r.measure for r in real.rows[at + 1 : at + 4]] == [f"  of {what} real clips" for what in CORRUPTIONS]
    floor = real.rows[at].real
    for corrupted in real.rows[at + 1 : at + 4]:
        assert corrupted.real.low > floor.high + 2 * (floor.high - floor.low)


def test_a_generator_that_ignores_its_caption(digits):
    evaluator, stand_in = digits
    evaluation = evaluator.full(stand_in.deaf, noise)
    for name, chance in {"digit": 0.1, "colour": 1 / 6, "motion": 0.25}.items():
        assert evaluation.scores[name] == pytest.approx(chance, abs=0.08)
    assert row(evaluation, "right digit").real >= 0.97
    assert evaluation.scores["diversity"] > 1.1
    scores = {"digit": 0.12, "colour": 0.99, "motion": 0.27, "diversity": 1.0}
    ignored = [sentence.split()[1] for sentence in warnings(scores)]
    assert ignored == ["digit", "motion"]
    assert warnings(scores)[0] == ("the digit in the condition is ignored: 12% of clips show it, 10% would by chance")


def test_a_generator_that_ignores_its_noise(digits):
    evaluator, stand_in = digits
    scores = evaluator.quick(stand_in.single, noise)
    assert scores["diversity"] == 0 and scores["joint"] >= 0.95
    assert [sentence[:36] for sentence in warnings(scores)] == ["clips of one condition are all alike"]


def test_a_generator_that_copies():
    # Of held-out captions there are no training clips to copy.
    source = DigitsSource()
    model = digits_model(source)
    copying = StandIn(model, source).copying
    evaluators = [
        Evaluator(model, source, DigitsSource(split="test"), 64, seen=TrainingDraws(seed, DRAWN)) for seed in (0, 1)
    ]
    copies, of_another_run = (evaluator.full(copying, noise) for evaluator in evaluators)
    assert copies.scores["copies"] >= 0.98
    assert row(copies, "copies").real == 0
    nearest = row(copies, "nearest of 4,000 training clips")
    assert nearest.generated < 2 < nearest.real
    assert of_another_run.scores["copies"] < 0.1
    # Few clips are looked at while training.
    assert evaluators[0].quick(copying, noise)["copies"] >= 0.98


def test_a_digit_that_stays_the_same_and_is_wrong_is_not_right(digits):
    evaluator, stand_in = digits

    first = evaluator.prompts.condition.text[:1]

    def one_digit(z, condition):
        """Real clips of one caption, for any condition."""
        return stand_in.real(z, condition._replace(text=first.expand_as(condition.text)))

    scores = evaluator.quick(one_digit, noise)
    assert scores["same_digit"] == pytest.approx(0.1, abs=0.03) and scores["digit"] == pytest.approx(0.1, abs=0.03)


def test_distances_grow_with_noise(digits):
    evaluator, stand_in = digits
    scores = [evaluator.quick(stand_in.noisy(amount), noise) for amount in (0, 0.1, 0.3)]
    for name in ("frechet", "kernel"):
        values = [score[name] for score in scores]
        assert values == sorted(values) and values[1] > values[0] + 1


@pytest.mark.parametrize("frame", [0, -1])
def test_an_end_that_is_blurred_or_noisy_is_scored(digits, frame):
    evaluator, stand_in = digits

    def spoil(change):
        def generate(z, condition):
            clips = stand_in.real(z, condition).clone()
            clips[:, frame] = change(clips[:, frame].float()).clamp(0, 255).to(torch.uint8)
            return clips

        return evaluator.quick(generate, noise)["end_sharpness"]

    def blur(x):
        return torch.nn.functional.avg_pool2d(x.movedim(-1, 1), 5, 1, 2).movedim(1, -1)

    assert spoil(lambda x: x) == pytest.approx(1, abs=0.05)
    assert spoil(blur) < 0.9 and spoil(lambda x: x + 40 * torch.randn(x.shape)) > 1.1


def test_quick_scores_are_those_of_the_table(digits, real):
    evaluator, stand_in = digits
    quick = evaluator.quick(stand_in.real, noise)
    assert quick.keys() == real.scores.keys()
    assert {k: v for k, v in quick.items() if k != "copies"} == pytest.approx(
        {k: v for k, v in real.scores.items() if k != "copies"}
    )
    assert quick["frechet"] == pytest.approx(row(real, "Fréchet distance").generated.value)


def test_the_same_seed_asks_for_the_same():
    source, test = DigitsSource(), DigitsSource(split="test")
    model = digits_model(source)
    first, again, other = (Evaluator(model, source, test, 16, seed).prompts for seed in (0, 0, 1))
    assert torch.equal(first.real, again.real) and torch.equal(first.condition.text, again.condition.text)
    assert not torch.equal(first.real, other.real)


def list_captions(prompts, source):
    """The captions of prompts' real clips, from their words."""
    words = {name: values.tolist() for name, values in prompts.words.items()}
    colours = [list(COLOURS)[i] for i in words["colour"]]
    motions = [MOTIONS[i] for i in words["motion"]]
    return [caption(*values) for values in zip(words["digit"], colours, motions, strict=True)]


def test_every_caption_is_asked_for_equally_often_and_held_out_ones_apart():
    source = DigitsSource(hold_out=0.1)
    evaluator = Evaluator(digits_model(source), source, DigitsSource(split="test"), 432)
    captions = list_captions(evaluator.prompts, source)
    assert {text: captions.count(text) for text in captions} == {text: 2 for text in source.captions}
    held_out = list_captions(evaluator.held_out, source)
    assert set(held_out) == set(source.held_out) and len(held_out) == 108
    groups = evaluator.prompts.group.tolist()
    assert len({(text, group) for text, group in zip(captions, groups, strict=True)}) == len(source.captions)


def test_classes_are_asked_for_equally_often():
    source = DigitsSource()
    evaluator = Evaluator(digits_model(source, condition=("class",)), source, DigitsSource(split="test"), 100)
    label = evaluator.prompts.condition.label
    assert torch.bincount(label).tolist() == [10] * 10
    assert set(evaluator.prompts.words) == {"digit"} and torch.equal(evaluator.prompts.words["digit"], label)
    scores = evaluator.quick(lambda z, c: evaluator.prompts.real[z[:, 0]], lambda n, g: torch.arange(n)[:, None])
    assert scores["digit"] == scores["joint"] >= 0.95
    assert "colour" not in scores and "motion" not in scores and "held_out_joint" not in scores
    assert scores["varied_colour"] == scores["varied_motion"] == 1 and "varied_digit" not in scores
    assert warnings(scores) == []


def test_classes_that_each_have_a_colour_of_their_own_are_noticed():
    """Their clips differ as much as real ones, in the place of the digit, and each has the right digit."""
    source, reference = DigitsSource(), DigitsSource(split="test")
    evaluator = Evaluator(
        digits_model(source, condition=("class",)), source, reference, 100, seen=TrainingDraws(0, DRAWN)
    )
    place = {text: i for i, text in enumerate(reference.captions)}

    def generate_coloured(z, condition):
        rng = np.random.default_rng(z[0, 0].item())
        motions = [list(MOTIONS)[i] for i in rng.integers(len(MOTIONS), size=len(z))]
        texts = [
            caption(digit, list(COLOURS)[digit % len(COLOURS)], motion, with_colour=True)
            for digit, motion in zip(condition.label.tolist(), motions, strict=True)
        ]
        return reference.render(
            torch.tensor([place[text] for text in texts]), torch.from_numpy(rng.random((len(z), 4)))
        )

    evaluation = evaluator.full(generate_coloured, noise)
    assert evaluation.scores["joint"] >= 0.95 and evaluation.scores["diversity"] > 0.75
    assert evaluation.scores["varied_motion"] == pytest.approx(1, abs=0.15)
    colour = row(evaluation, "pairs of one condition that differ in colour")
    assert colour.generated == evaluation.scores["varied_colour"] == 0
    assert colour.real == pytest.approx(5 / 6, abs=0.1)
    assert evaluation.warnings == [
        "clips of one condition are nearly all of one colour: pairs differ in it 0.00 times as often as real ones"
    ]


@pytest.mark.slow
def test_first_frames_are_compared_with_those_given():
    source = DigitsSource()
    evaluator = Evaluator(
        digits_model(source, condition=("image",)), source, DigitsSource(split="test"), 64, seen=TrainingDraws(0, DRAWN)
    )
    order = torch.arange(64) % 32  # each first frame is given twice

    def still(z, condition):
        frames = condition.image.add(1).mul(127.5).round().to(torch.uint8)  # (n, C, H, W)
        return frames.permute(0, 2, 3, 1)[:, None].expand(-1, 16, -1, -1, -1)

    evaluation = evaluator.full(still, noise)
    scores = evaluation.scores
    assert scores["first_frame_psnr"] == pytest.approx(10 * np.log10(255**2 * 12))
    assert scores["digit"] >= 0.9 and scores["colour"] == 1 and "motion" not in scores
    assert scores["varied_motion"] == 0 and len(evaluation.warnings) == 1
    assert row(evaluation, "pairs of one condition that differ in motion").real == pytest.approx(0.75, abs=0.15)
    assert "nearly all of one motion" in evaluation.warnings[0]
    assert "diversity" not in scores and row(evaluation, "difference within a condition").generated == 0
    assert "first frame against the one given" in text_table(evaluation.rows)
    clips = iter(evaluator.prompts.real[order].split(64))
    assert evaluator.quick(lambda z, c: next(clips), noise)["joint"] >= 0.95


@pytest.mark.slow
def test_a_model_without_a_condition_is_measured_by_what_is_left():
    source = DigitsSource(channels=1)
    reference = DigitsSource(channels=1, split="test")
    evaluator = Evaluator(
        digits_model(source, condition=(), channels=1), source, reference, 64, seen=TrainingDraws(0, DRAWN)
    )
    assert evaluator.prompts.condition is None
    evaluation = evaluator.full(lambda z, c: evaluator.prompts.real[z[:, 0]], lambda n, g: torch.arange(n)[:, None])
    varied = {"varied_digit", "varied_motion"}
    artefacts = {"end_sharpness", "grid_pattern"}
    assert set(evaluation.scores) == {"diversity", "copies", "same_digit", "frechet", "kernel", *varied, *artefacts}
    assert {evaluation.scores[name] for name in varied} == {1}
    assert evaluation.scores["frechet"] == pytest.approx(0, abs=1e-3)


def test_grey_digits_have_no_colour():
    source = DigitsSource(channels=1)
    model = digits_model(source, channels=1)
    reference = DigitsSource(channels=1, split="test")
    scores = Evaluator(model, source, reference, 80).quick(StandIn(model, source, reference).real, noise)
    assert scores["joint"] >= 0.95 and "colour" not in scores


def test_longer_clips_are_read_as_well():
    source, reference = DigitsSource(frames=40), DigitsSource(frames=40, split="test")
    model = digits_model(source, family="recurrent", frames=40)
    scores = Evaluator(model, source, reference, 48).quick(StandIn(model, source, reference).real, noise)
    assert scores["joint"] >= 0.95 and scores["same_digit"] >= 0.9


def test_psnr_is_the_published_formula():
    given = torch.randint(0, 200, (3, 4, 4, 3), dtype=torch.uint8)
    made = given + torch.randint(1, 50, given.shape, dtype=torch.uint8)
    errors = ((made.double() - given.double()) ** 2).flatten(1).mean(1).numpy()
    assert peak_signal_to_noise(made, given) == pytest.approx(np.mean(20 * np.log10(255 / np.sqrt(errors))))


def test_spoilt_clips_are_spoilt_as_said():
    video = torch.randint(0, 256, (70, 5, 6, 6, 3), dtype=torch.uint8)
    frozen, shuffled, blurred = (corrupt(video) for corrupt in CORRUPTIONS.values())
    assert torch.equal(frozen[:, 3], video[:, 0])
    assert not torch.equal(shuffled, video)
    assert torch.equal(
        shuffled.flatten(2).double().sum(2).sort(1).values, video.flatten(2).double().sum(2).sort(1).values
    )
    mean = video[69, 2, 1:4, 2:5, 1].double().mean().item()
    assert abs(blurred[69, 2, 2, 3, 1].item() - mean) <= 0.5


def test_table_is_aligned_and_values_are_all_in_the_json(real):
    lines = text_table(real.rows).splitlines()
    assert len(lines) == len(real.rows) + 1
    start = lines[0].index("generated")
    assert all(line[start - 2 : start].isspace() for line in lines)
    assert "held-out captions" in lines[0] and "100.0%" in lines[2]
    values = json_values(real)
    assert [entry["measure"] for entry in values["table"]] == [r.measure.strip() for r in real.rows]
    frechet = next(entry for entry in values["table"] if entry["measure"] == "Fréchet distance")
    assert frechet["generated"] == row(real, "Fréchet distance").generated._asdict()
    assert values["scores"] == real.scores


def test_what_cannot_be_evaluated():
    source, test = DigitsSource(), DigitsSource(split="test")
    with pytest.raises(ValueError, match="16 or more, not 8"):
        Evaluator(digits_model(source), source, test, 8)
    for values, sentence in [
        ({"vocabulary": ("a", "dog")}, "not trained on the word"),
        ({"condition": ("class",), "class_names": ("cat", "dog")}, "not trained on the class '0'; its classes are cat"),
    ]:
        with pytest.raises(UserError, match=sentence) as raised:
            Evaluator(digits_model(source, **values), source, test, 16)
        assert "\n" not in str(raised.value)
