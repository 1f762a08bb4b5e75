"""The cache of features: what it returns, damaged files, folders that cannot be written, and several processes."""

import os
from pathlib import Path

import pytest
import torch

from fastvgan.errors import UserError
from fastvgan.files.atomic import UNFINISHED
from fastvgan.files.tensor_file import read_tensors, save_tensors
from fastvgan.metrics.detectors import cache as cache_module
from fastvgan.metrics.detectors.cache import FeatureCache, default_folder

FACTS = {"fingerprint": "abc", "clips": 5, "detector": {"sha256": "0" * 64, "size": 224}}


def features():
    return torch.randn(5, 3)


def test_what_was_written_is_read(tmp_path):
    written, folder = features(), tmp_path / "new" / "cache"
    cache = FeatureCache(folder)
    assert cache.read(FACTS, 5) is None
    cache.write(FACTS, written)
    assert torch.equal(FeatureCache(folder).read(FACTS, 5), written)
    assert [path.name for path in folder.iterdir()] == [cache.path(FACTS).name] and cache.warnings == []
    assert cache.read(dict(reversed(FACTS.items())), 5) is not None  # the order of the facts does not count


@pytest.mark.parametrize(
    "change", [{"fingerprint": "abd"}, {"clips": 6}, {"detector": {"sha256": "1" * 64, "size": 224}}, {"more": None}]
)
def test_other_facts_are_other_features(tmp_path, change):
    cache = FeatureCache(tmp_path)
    cache.write(FACTS, features())
    assert cache.read({**FACTS, **change}, 5) is None and cache.warnings == []


def test_another_version_has_other_features(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    cache.write(FACTS, features())
    monkeypatch.setattr(cache_module, "_VERSION", cache_module._VERSION + 1)
    assert cache.read(FACTS, 5) is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def rename_the_tensor(path):
    tensors, metadata = read_tensors(path)
    save_tensors({"other": tensors["features"]}, path, metadata)


def replace_features(path, change):
    """Change the features, and their checksum accordingly."""
    tensors, metadata = read_tensors(path)
    changed = change(tensors["features"])
    save_tensors({"features": changed}, path, {**metadata, "sha256": cache_module._checksum(changed)})


def drop_a_clip(path):
    replace_features(path, lambda features: features[1:])


def add_a_dimension(path):
    replace_features(path, lambda features: features[:, None])


def change_the_dtype(path):
    replace_features(path, torch.Tensor.double)


def change_the_facts(path):
    tensors, metadata = read_tensors(path)
    save_tensors(tensors, path, {**metadata, "facts": metadata["facts"].replace("abc", "abd")})


@pytest.mark.parametrize(
    "damage",
    [
        *(truncate, empty, flip_a_bit, rename_the_tensor, drop_a_clip, add_a_dimension, change_the_dtype),
        change_the_facts,
    ],
    ids=lambda f: f.__name__,
)
def test_a_damaged_file_counts_as_missing_and_is_named(tmp_path, damage):
    cache = FeatureCache(tmp_path)
    cache.write(FACTS, features())
    damage(cache.path(FACTS))
    assert cache.read(FACTS, 5) is None
    (sentence,) = cache.warnings
    assert str(cache.path(FACTS)) in sentence and "damaged" in sentence
    again = features()
    cache.write(FACTS, again)
    assert torch.equal(cache.read(FACTS, 5), again) and len(cache.warnings) == 1


def test_several_writers_of_one_file(tmp_path, monkeypatch):
    """Another process writes the same features while this one does, which has its temporary file already."""
    written, cache = features(), FeatureCache(tmp_path)
    save = cache_module.save_tensors

    def save_while_another_does(tensors, path, metadata):
        save(tensors, path, metadata)
        if os.getpid() != 1:
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: 1)
                cache.write(FACTS, written)

    monkeypatch.setattr(cache_module, "save_tensors", save_while_another_does)
    cache.write(FACTS, written)
    assert torch.equal(cache.read(FACTS, 5), written) and cache.warnings == []
    assert [path.name for path in tmp_path.iterdir()] == [cache.path(FACTS).name]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write --cache .*file: File exists; pass another folder"):
        FeatureCache(tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache = FeatureCache()
    assert "cannot write" in cache.warnings[0] and "pass a folder with --cache" in cache.warnings[0]
    assert cache.read(FACTS, 5) is None
    cache.write(FACTS, features())
    assert "were not cached" in cache.warnings[1] and (tmp_path / "file").read_bytes() == b""


def test_a_folder_without_write_permission_is_noticed_at_once(tmp_path, monkeypatch):
    def fail(path):
        raise UserError(f"cannot write {path}") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_module, "check_writable", fail)  # root may write anywhere
    with pytest.raises(UserError, match="cannot write --cache .*: Permission denied; pass another folder"):
        FeatureCache(tmp_path)


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)

    def fail(self, data):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    cache.write(FACTS, features())
    assert "No space left on device" in cache.warnings[0]
    assert not [path for path in tmp_path.iterdir() if UNFINISHED in path.name]


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fastvgan" / "real-features"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/folder"):  # the specification ignores relative paths
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == tmp_path / "home" / ".cache" / "fastvgan" / "real-features"

    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert default_folder().is_absolute()
