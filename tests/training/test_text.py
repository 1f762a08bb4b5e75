"""Training with free captions and with a pretrained text model: graphs, processes, resuming, commands."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import call
from recorded import Recorder
from tiny import FLAGS, tiny
from together import compare_two_processes

import fastvgan
from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, Variant
from fastvgan.data.digits.phrases import phrasings
from fastvgan.errors import UserError
from fastvgan.files.pixels import to_uint8
from fastvgan.generation.files import export
from fastvgan.generation.loading import _newer_text_encoder
from fastvgan.metrics.evaluation import Evaluator
from fastvgan.models import Condition, build
from fastvgan.models.text.folder import fingerprint
from fastvgan.models.text.pretrained import PretrainedText, open_text_encoder
from fastvgan.models.vocabulary import Vocabulary, split_words
from fastvgan.random_draws import Purpose
from fastvgan.runs.config import RunConfig, read_config
from fastvgan.training.batches import BatchMaker
from fastvgan.training.caption_table import CaptionTable
from fastvgan.training.conditions import Conditions, add_vocabulary
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run.resume import find_start
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.graphs import StepRunner
from fastvgan.training.step.tensors import tensors_of

CPU = torch.device("cpu")
SEQUENCE = {"condition": ("text",), "text_model": "sequence"}


@pytest.fixture
def text_model(tmp_path):
    from text_models import save_bert  # skips the test without transformers

    save_bert(tmp_path / "text-model")
    return tmp_path / "text-model"


def decode(model, rows):
    """The words of indices, as tuples."""
    return [tuple(model.vocabulary[i - 2] for i in row if i) for row in rows.tolist()]


def make(model, source, precision=torch.float32, **training):
    config = tiny(model, **training)
    model = add_vocabulary(config.model, source)
    torch.manual_seed(0)
    step = AdversarialStep(model, config.training, CPU, precision)
    size, wrong = config.training.batch_size, config.training.wrong_conditions
    maker = BatchMaker(Conditions(model, source), step.generator, source, 0, wrong, range(size), size)
    return model, step, maker


def test_each_clip_has_a_phrasing_of_its_caption_and_wrong_ones_of_another_meaning():
    source = DigitsSource(variant=Variant(is_free=True))
    model, _, maker = make(SEQUENCE, source, batch_size=64, wrong_conditions=3)
    # Which captions say the same, by their words.
    split = Vocabulary(model.vocabulary, model.caption_length)
    flat = [text for row in source.phrasings for text in row]
    rows = split.encode(flat).tolist()
    meaning = {tuple(row): i // 192 for i, row in enumerate(rows)}
    form = {tuple(row): i % 192 for i, row in enumerate(rows)}
    seen = set()
    for number in range(3):
        inputs = maker.make(torch.tensor(number), torch.tensor(0))
        words = maker._draws(maker._places + 64 * number)
        captions = source.draw(words[Purpose.CLIP]).caption.tolist()
        for caption, right, wrongs in zip(captions, inputs.c.text.tolist(), inputs.wrong.text.tolist(), strict=True):
            assert meaning[tuple(right)] == caption
            for wrong in wrongs:
                assert meaning[tuple(wrong)] != caption and form[tuple(wrong)] == form[tuple(right)]
            seen.add(form[tuple(right)])
    assert len(seen) > 90  # of 192 phrasings, in 192 draws: 1 - 1/e of them are expected, 121


def test_fixed_captions_have_the_draws_that_they_had():
    _, _, fixed = make({"condition": ("text",)}, DigitsSource(), wrong_conditions=2)
    _, _, free = make({"condition": ("text",)}, DigitsSource(variant=Variant(is_free=True)), wrong_conditions=2)
    ours, theirs = (maker.make(torch.tensor(5), torch.tensor(0)) for maker in (fixed, free))
    assert torch.equal(ours.real, theirs.real) and torch.equal(ours.z, theirs.z)
    assert fixed._conditions.phrasings == 0 and fixed._draws(torch.arange(2))[Purpose.PHRASING].shape == (2, 0)


@pytest.mark.parametrize(
    ("kind", "family", "precision"),
    [("sequence", "conv3d", torch.float32), ("pretrained", "recurrent", torch.bfloat16)],
)
def test_a_recorded_step_is_the_eager_one(kind, family, precision, request, monkeypatch):
    monkeypatch.setenv("FASTVGAN_IMPL", "cpp")  # see test_graphs.py
    model = {"family": family, "condition": ("text",), "discriminators": ("clip", "frame")}
    model |= {"text_model": "sequence"} if kind == "sequence" else {"text_encoder": text_folder(request)}
    settings = {"r1": 0.1, "r1_every": 2, "contrast": 0.5, "wrong_conditions": 3, "diversity": 1.0}
    settings |= {"feature_diversity": 1.5}
    results = []
    for mode, backend in (("off", None), ("auto", Recorder())):
        _, step, maker = make(model, DigitsSource(variant=Variant(is_free=True)), precision, **settings)
        runner = StepRunner(step, maker, mode, backend)
        for number in range(14):
            runner(number, None)
        assert backend is None or backend.captured >= 3
        results.append({**tensors_of(step), "totals": step.totals})
    assert [name for name, value in results[0].items() if not torch.equal(value, results[1][name])] == []
    assert all(value.isfinite().all() for name, value in results[0].items() if name != "totals")


def text_folder(request):
    return str(request.getfixturevalue("text_model"))


@pytest.mark.parametrize("kind", ["sequence", "pretrained"])
def test_two_processes_are_one_at_the_same_batch(kind, tmp_path, request):
    model = {"condition": ("image", "text")}
    model |= {"text_model": "sequence"} if kind == "sequence" else {"text_encoder": text_folder(request)}
    settings = {"batch_size": 8, "diversity": 2.0, "r1": 0.1, "r1_every": 2, "contrast": 0.5, "wrong_conditions": 3}
    alone = compare_two_processes(tmp_path, settings | {"lr_generator": 1e-3, "model": model})
    assert not any(value.isnan().any() for value in alone.values())


def test_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for _ in range(2):
            _, step, maker = make(SEQUENCE, DigitsSource(variant=Variant(is_free=True)), r1=0.1, contrast=1.0)
            for number in range(2):
                step(number, maker.make(torch.tensor(number), torch.tensor(0)), True)
            results.append(tensors_of(step))
        assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    finally:
        torch.use_deterministic_algorithms(False)


def begin(folder, resume=None, steps=2, **model):
    config = tiny({"condition": ("text",), **model}, steps=steps, checkpoint_every=2)
    return TrainingLoop(config, find_start("x", folder, resume))


@pytest.mark.slow
def test_a_run_with_a_text_model_resumes_from_its_cache_and_generates(tmp_path, text_model, monkeypatch):
    trainer = begin(tmp_path / "whole", text_encoder=str(text_model), steps=4)
    assert not (tmp_path / "whole").exists() and trainer.run() == 0
    trainer = begin(tmp_path / "r", text_encoder=str(text_model))
    assert trainer.run() == 0
    (cache,) = (tmp_path / "r" / "text").glob("*.safetensors")
    saved = read_config(tmp_path / "r" / "config.yaml").model
    assert saved.text_encoder == str(text_model) and saved.text_width == 8 and saved.vocabulary == ()
    assert saved.text_fingerprint == fingerprint(text_model)

    moved = tmp_path / "moved"
    text_model.rename(moved)
    with pytest.raises(UserError, match=f"--text-encoder {text_model}: this does not exist"):
        begin(tmp_path / "r", "auto", steps=4, text_encoder=str(text_model))
    with pytest.raises(UserError, match=r"was trained with --text-encoder .*text-model .*, not without --text-encoder"):
        begin(tmp_path / "r", "auto", steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(PretrainedText, "encode", None)  # the cache is used
        trainer = begin(tmp_path / "r", "auto", steps=4, text_encoder=str(moved))
    assert trainer.run() == 0
    assert read_config(tmp_path / "r" / "config.yaml").model.text_encoder == str(moved)
    whole, resumed = (
        fastvgan.load(tmp_path / name / "export" / "generator.safetensors").network.state_dict()
        for name in ("whole", "r")
    )
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())

    generator = fastvgan.load(tmp_path / "r")
    clips = generator.generate(text="seven and a zebra", n=2)
    assert clips.shape == (2, 16, 16, 16, 3)
    embedding = open_text_encoder(moved).encode(["seven and a zebra"])
    with torch.no_grad():
        expected = to_uint8(generator.network(generator.network.noise(2), Condition(embedding.expand(2, -1))))
    assert torch.equal(clips, expected)
    moved.rename(tmp_path / "elsewhere")
    arguments = ["--run", str(tmp_path / "r"), "--text", "seven", "--n", "1", "--out", str(tmp_path / "x.png")]
    status, _, err = call("fastvgan.generate", arguments)
    assert status == 2 and err.count("\n") == 1 and "pass its new folder with --text-encoder" in err
    assert call("fastvgan.generate", [*arguments, "--text-encoder", str(tmp_path / "elsewhere")])[0] == 0
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize("beside", ["the run's", "another run's", "not a run's", "none"])
def test_a_moved_text_model_is_found_by_its_own_run_only(beside, tmp_path, text_model):
    config = tiny({"condition": ("text",), "text_encoder": str(text_model)})
    config = config.model_copy(update={"model": add_vocabulary(config.model, DigitsSource())})
    file = tmp_path / "run" / "export" / "generator.safetensors"
    file.parent.mkdir(parents=True)
    export(build(config.model)[0].state_dict(), config.model, file)
    moved = text_model.rename(tmp_path / "moved")
    newer = {"text_encoder": str(moved)}
    if beside == "another run's":
        newer["text_fingerprint"] = "0" * 64
    if beside in ("the run's", "another run's"):
        config = config.model_copy(update={"model": config.model.model_copy(update=newer)})
        (tmp_path / "run" / "config.yaml").write_text(config.to_yaml())
    elif beside == "not a run's":
        (tmp_path / "run" / "config.yaml").write_text("port: 80\n")
    found = fastvgan.load(file).config.text_encoder
    assert found == str(moved if beside == "the run's" else text_model)


def test_a_generator_in_the_root_folder(tmp_path, text_model):
    model = add_vocabulary(tiny({"condition": ("text",), "text_encoder": str(text_model)}).model, DigitsSource())
    text_model.rename(tmp_path / "moved")
    assert _newer_text_encoder(model, Path("/generator.safetensors")) is None


def test_a_damaged_cache_is_replaced(tmp_path, text_model):
    source = DigitsSource()
    model = add_vocabulary(tiny({"condition": ("text",), "text_encoder": str(text_model)}).model, source)
    first = Conditions(model, source, run=tmp_path)
    assert not (tmp_path / "text").exists()
    first.table.save(tmp_path)
    (file,) = (tmp_path / "text").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:100])
    again = Conditions(model, source, run=tmp_path)
    again.table.save(tmp_path)
    assert file.read_bytes() == content
    index = torch.arange(9)
    expected = open_text_encoder(text_model).encode(source.captions[:9])
    for each in (first, again):
        torch.testing.assert_close(each.table(index), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "most"), [("words", "32 words"), ("pretrained", "16 tokens")])
def test_cut_captions_and_an_unwritable_cache_are_warned_of(kind, most, tmp_path, request, caplog):
    text = {"text_encoder": text_folder(request)} if kind == "pretrained" else {}
    source = SimpleNamespace(captions=["a cat " * 17, "a dog"], classes=())
    model = add_vocabulary(tiny({"condition": ("text",), **text}).model, source)
    (tmp_path / "text").write_text("a file where the folder should be")
    CaptionTable(model, source, run=tmp_path).save(tmp_path)
    assert f"1 of 2 captions have more than {most}, and are cut after these, such as 'a cat" in caplog.text
    assert ("cannot write" in caplog.text and "training continues" in caplog.text) == (kind == "pretrained")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text-encoder", "nowhere"], "--text-encoder nowhere: this does not exist"),
        (["--text-encoder", "x", "--text-model", "sequence"], "exclude each other"),
        (["--text-encoder", "TEXT", "--condition", "none"], "--text-encoder reads captions, but the model has none"),
        (["--text-model", "lstm"], "expected one of words, sequence"),
        (["--captions", "free", "--data", "."], "--captions free applies only to the digits"),
    ],
)
def test_bad_flags_end_with_status_2_before_anything_is_written(flags, message, tmp_path, request):
    folder = tmp_path / "run"
    flags = [text_folder(request) if flag == "TEXT" else flag for flag in flags]
    status, _, err = call("fastvgan.train", [*FLAGS, "--preset", "clips", "--run-dir", str(folder), *flags])
    assert status == 2 and message in err.splitlines()[-1] and not folder.exists()


def test_an_older_configuration_is_that_of_words():
    values = RunConfig().model_dump()
    for name in ("text_model", "text_encoder", "text_width", "text_fingerprint"):
        del values["model"][name]
    del values["data"]["captions"]
    assert RunConfig.model_validate(values) == RunConfig()


@pytest.mark.parametrize(("is_free", "kind"), [(True, "sequence"), (False, "sequence"), (False, "pretrained")])
def test_paraphrases_are_scored_where_the_model_can_read_them(is_free, kind, request):
    """By a stand-in that shows what the condition says; it reads words, so that wrong ones would be seen."""
    source, reference = DigitsSource(variant=Variant(is_free=is_free)), DigitsSource(split="test")
    values = SEQUENCE if kind == "sequence" else {"condition": ("text",), "text_encoder": text_folder(request)}
    model = add_vocabulary(tiny(values).model, source)
    evaluator = Evaluator(model, source, reference, 32, 0)
    prompts = evaluator._reader.paraphrased
    assert (prompts is None) == (not is_free and kind == "sequence")
    if prompts is None:
        return
    assert len(prompts.group) == 8 and set(prompts.words) == {"digit", "colour", "motion"}

    def generate(z, condition):
        assert condition.text.isfinite().all()
        is_asked = condition.text.shape == prompts.condition.text.shape and torch.equal(
            condition.text, prompts.condition.text
        )
        shown = prompts if is_asked else evaluator.prompts
        return shown.real[: len(z)]

    scores = evaluator.quick(generate, lambda n, seed: torch.zeros(n, 1))
    assert scores["paraphrased_joint"] > 0.7
    if kind == "sequence":
        for words, digit, colour, motion in zip(
            decode(model, prompts.condition.text), *(prompts.words[k].tolist() for k in prompts.words), strict=True
        ):
            texts = phrasings(digit, list(COLOURS)[colour], MOTIONS[motion], "test")
            assert words in {tuple(split_words(text)) for text in texts}
