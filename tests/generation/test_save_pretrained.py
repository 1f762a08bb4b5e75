"""save_pretrained, from_pretrained, push_to_hub, and model cards as huggingface_hub reads them; without a network."""

import json
import sys
from pathlib import Path

import commands
import pytest
import torch
from safetensors import safe_open
from small_generators import make_generator

import fastvgan
from fastvgan.errors import UserError
from fastvgan.generation import loading
from fastvgan.generation.files import export
from fastvgan.generation.shipped import find_generator
from fastvgan.runs.config import RunConfig

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
ARGUMENTS = {"text": "a red", "seed": 3}


def is_usable(name):
    return name != "nonsense" and getattr(torch, name).is_available()


@pytest.fixture
def folder(tmp_path):
    make_generator().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def hub(folder, monkeypatch):
    """A Hub with one model, user/model, in a local folder; the requested files are recorded."""
    requests = []

    def hf_hub_download(repo_id, filename, **options):
        requests.append((repo_id, filename, options))
        if repo_id != "user/model":
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"cannot find {repo_id}\nand more")
        return str(folder / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return requests


@pytest.mark.parametrize("name", [n for n in ("cuda", "mps", "nonsense") if not is_usable(n)])
def test_a_device_that_cannot_be_used(folder, name):
    for load in (fastvgan.load, fastvgan.from_pretrained):
        with pytest.raises(UserError, match=f"{name}.*(cannot use this device|no CUDA device|is not a device)"):
            load(folder, name)


@pytest.mark.parametrize("values", [{}, {"family": "recurrent", "frames": 4, "upsampling": "resize"}])
def test_a_round_trip_keeps_every_bit(tmp_path, values):
    generator = make_generator(**values)
    generator.save_pretrained(tmp_path / "a" / "b")
    loaded = fastvgan.from_pretrained(tmp_path / "a" / "b")
    assert loaded.config == generator.config and loaded.path == tmp_path / "a" / "b" / "model.safetensors"
    for name, one in generator.network.state_dict().items():
        assert torch.equal(one, loaded.network.state_dict()[name]), name
    assert torch.equal(loaded(**ARGUMENTS).frames, generator(**ARGUMENTS).frames)
    loaded.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "a" / "b" / name).read_bytes()
    file = fastvgan.load(tmp_path / "again" / "model.safetensors")
    assert torch.equal(file(**ARGUMENTS).frames, loaded(**ARGUMENTS).frames)


def test_half_precision_makes_the_same_clips_after_a_round_trip(tmp_path):
    generator = make_generator().half()
    generator.save_pretrained(tmp_path / "a")
    loaded = fastvgan.from_pretrained(str(tmp_path / "a"), dtype=torch.float16)
    assert torch.equal(loaded(**ARGUMENTS).frames, generator(**ARGUMENTS).frames)
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16, torch.float32, torch.int64}


def test_the_layout_is_that_of_the_hubs_mixin(tmp_path, folder):
    class Model(torch.nn.Module, huggingface_hub.PyTorchModelHubMixin):
        def __init__(self, width: int = 3):
            super().__init__()
            self.layer = torch.nn.Linear(width, width)

    Model().save_pretrained(tmp_path / "theirs")
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "theirs").iterdir()}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert json.loads((folder / "config.json").read_text())["family"] == "conv3d"


def test_the_hub_reads_the_model_card(tmp_path):
    run = tmp_path / "run"
    config = RunConfig(model=make_generator().config)
    (run / "export").mkdir(parents=True)
    export(make_generator().network.state_dict(), config.model, run / "export" / "best.safetensors", {"step": "40"})
    (run / "config.yaml").write_text(config.to_yaml())
    scores = [{"step": 20, "digit": 0.1}, {"step": 40, "digit": 0.75}, {"step": 60, "digit": 0.2}]
    (run / "evaluation.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in scores))
    fastvgan.from_pretrained(run).save_pretrained(tmp_path / "saved", name="user/model", license="cc-by-4.0")
    card = huggingface_hub.ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.library_name == "fastvgan" and card.data.pipeline_tag == "text-to-video"
    assert card.data.license == "cc-by-4.0" and set(card.data.tags) == {"gan", "video-generation", "conv3d"}
    for part in (
        'from_pretrained("user/model")',
        "a, green, moving, red",
        "| base_width | 2 |",
        "| step | 40 |",
        "| batch size | 64 |",
        "| digit | 0.75 |",
        "`cc-by-4.0`",
    ):
        assert part in card.text, part
    assert "| height |" not in card.text  # it is the default
    # What was known stays known without the run, and an edited card is kept.
    fastvgan.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    again = (tmp_path / "again" / "README.md").read_text()
    assert "| digit | 0.75 |" in again and "| step | 40 |" in again and "# again" in again
    assert huggingface_hub.ModelCard(again).data.license == "cc-by-4.0"
    (tmp_path / "again" / "README.md").write_text("mine")
    fastvgan.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == "mine"


def test_a_licence_of_a_model_made_from_the_shipped_one_is_kept(tmp_path):
    fastvgan.from_pretrained("digits").save_pretrained(tmp_path / "a", license="cc-by-4.0")
    fastvgan.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert huggingface_hub.ModelCard.load(tmp_path / "b" / "README.md").data.license == "cc-by-4.0"


@pytest.mark.parametrize("condition", [(), ("class",), ("image",), ("text", "class", "image")])
def test_the_cards_snippet_has_what_the_model_follows(tmp_path, condition):
    make_generator(condition=condition).save_pretrained(tmp_path / "x")
    card = huggingface_hub.ModelCard.load(tmp_path / "x" / "README.md")
    snippet = card.text.partition("```python")[2].partition("```")[0]
    for part, argument in {"text": '"a sentence"', "class": 'label="cat"', "image": 'image="first.png"'}.items():
        assert (argument in snippet) == (part in condition)
    compile(snippet, "README.md", "exec")


def test_the_folder_of_a_text_model_stays_private(tmp_path):
    generator = make_generator()
    generator.config = generator.config.model_copy(
        update={"text_encoder": "/secret/place/clip", "text_width": 8, "text_fingerprint": "abc"}
    )
    generator.save_pretrained(tmp_path / "x")
    assert not [path for path in (tmp_path / "x").iterdir() if b"secret" in path.read_bytes()]
    assert "`clip` (SHA-256 `abc`)" in (tmp_path / "x" / "README.md").read_text()


def test_a_model_of_the_hub(folder, hub, tmp_path):
    loaded = fastvgan.from_pretrained("user/model", revision="v1", token="t", cache_dir=tmp_path, local_files_only=True)
    assert torch.equal(loaded(**ARGUMENTS).frames, make_generator()(**ARGUMENTS).frames)
    options = {"revision": "v1", "token": "t", "cache_dir": tmp_path, "local_files_only": True}
    assert hub == [("user/model", "config.json", options), ("user/model", "model.safetensors", options)]
    sentence = r"cannot download user/other .*\(LocalEntryNotFoundError: cannot find user/other\)"
    with pytest.raises(UserError, match=sentence):
        fastvgan.from_pretrained("user/other")


def test_commands_take_a_model_of_the_hub_where_no_folder_has_the_users_name(folder, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--run", "user/model", "--text", "a red", "--n", "1"]
    status, _, said = commands.call("fastvgan.generate", [*flags, "--out", "a.gif"])
    assert status == 0, said
    assert [name for _, name, _ in hub] == ["config.json", "model.safetensors"]
    commands.call("fastvgan.generate", ["--run", str(folder), *flags[2:], "--out", "b.gif"])
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"--run runs/typo does not exist; pass a run folder"):
        find_generator(Path("runs/typo"))
    assert len(hub) == 2


def test_names_of_generators_that_come_with_the_package(folder, hub, monkeypatch, tmp_path):
    monkeypatch.setitem(loading.SHIPPED, "digits", folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert fastvgan.from_pretrained("digits").path == folder / "model.safetensors" and not hub
    make_generator(channels=1).save_pretrained("digits")  # a folder of this name comes first
    assert fastvgan.from_pretrained("digits").config.channels == 1
    for name in ("nothing", "a/b/c", "../x"):
        with pytest.raises(UserError, match=r"does not exist; pass a run folder.*\(digits\).*Hub") as raised:
            fastvgan.from_pretrained(name)
        assert str(raised.value).startswith(name)
    assert not hub


def test_an_upload(monkeypatch):
    calls = {}

    class HfApi:
        def __init__(self, token):
            calls["token"] = token

        def create_repo(self, name, private, exist_ok):
            if name == "user/refused":
                raise ValueError("name refused")
            calls["repository"] = (name, private, exist_ok)
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls["upload"] = (repo_id, commit_message, sorted(path.name for path in Path(folder_path).iterdir()))
            calls["card"] = (Path(folder_path) / "README.md").read_text()

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    address = make_generator().push_to_hub("user/model", private=True, license="mit", message="first", token="t")
    assert address == "https://huggingface.co/user/model"
    assert calls["token"] == "t" and calls["repository"] == ("user/model", True, True)
    assert calls["upload"] == ("user/model", "first", ["README.md", "config.json", "model.safetensors"])
    assert 'from_pretrained("user/model")' in calls["card"] and 'license: "mit"' in calls["card"]
    with pytest.raises(UserError, match=r"cannot upload to user/refused .*\(ValueError: name refused\)"):
        make_generator().push_to_hub("user/refused")


def test_without_huggingface_hub(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert fastvgan.from_pretrained(folder).config == make_generator().config
    for call in (lambda: fastvgan.from_pretrained("user/model"), lambda: make_generator().push_to_hub("user/model")):
        with pytest.raises(UserError, match=r'needs the package huggingface_hub: pip install "fastvgan\[hub\]"'):
            call()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", r"config\.json cannot be read"),
        ("[]", r"config\.json does not describe a fastvgan generator"),
        ('{"architectures": ["Bert"]}', r"config\.json does not describe a fastvgan generator"),
        ('{"family": "conv3d", "new": 1}', r"config\.json does not fit this version of fastvgan \(new: is not a"),
        ('{"family": "conv3d", "base_width": 64}', r"does not fit this version of fastvgan \(its configuration needs"),
    ],
)
def test_damaged_folders(folder, config, sentence):
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=sentence) as raised:
        fastvgan.from_pretrained(folder)
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.*; pass another folder"):
        make_generator().save_pretrained(tmp_path / "file")
