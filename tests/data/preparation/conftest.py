"""Folders to prepare."""

import pytest
from make_videos import encode, make_folder, make_numbered


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "forty clips"
    return folder, make_folder(folder, 42)


@pytest.fixture
def few(tmp_path):
    folder = tmp_path / "src"
    for i, (name, codec) in enumerate([("cat/a b.mp4", "h264"), ("cat/c.webm", "vp9"), ("dog/ä.avi", "mjpeg")]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, make_numbered(12 * i + 30)[12 * i :], codec, 10)
        path.with_suffix(".txt").write_text(f"number {i}\nclip {i}\n")
    return folder
