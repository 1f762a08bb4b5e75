"""Make what the reader of a how-to page has already, in the current folder: `given.py NAME…`."""

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "data")]

import numpy as np  # noqa: E402
from make_videos import COLOURS, MOTIONS, encode, square  # noqa: E402
from PIL import Image  # noqa: E402

SIZE = 24, 32, 32  # frames, height, width
LOOKS = [(colour, motion) for colour in COLOURS for motion in MOTIONS]


def _clips(times: int = 1) -> list[tuple[str, str, np.ndarray]]:
    """Name, caption and frames of each clip."""
    return [(f"clip{i}", f"a {c} square moving {m}", square(c, m, *SIZE)) for i, (c, m) in enumerate(LOOKS * times)]


def my_clips(folder: Path) -> None:
    """Videos with captions beside them, as many as an evaluation needs."""
    for name, caption, frames in _clips(2):
        encode(folder / f"{name}.mp4", frames)
        (folder / f"{name}.txt").write_text(f"{caption}\n")


def by_class(folder: Path) -> None:
    """A folder of videos for each colour."""
    for name, caption, frames in _clips():
        inside = folder / caption.split()[1]
        inside.mkdir(exist_ok=True)
        encode(inside / f"{name}.mp4", frames)


def animations(folder: Path) -> None:
    """Animated WebP files."""
    for name, caption, frames in _clips():
        first, *others = map(Image.fromarray, frames)
        first.save(folder / f"{name}.webp", save_all=True, append_images=others, lossless=True)
        (folder / f"{name}.txt").write_text(f"{caption}\n")


def ucf_101(folder: Path) -> None:
    """UCF-101's folders and, beside them, its lists."""
    lists = folder.parent / "ucfTrainTestlist"
    lists.mkdir()
    lines = []
    for i, action in enumerate(("Archery", "Biking")):
        (folder / action).mkdir()
        for j, (colour, motion) in enumerate(LOOKS[:4]):
            name = f"{action}/v_{action}_g{j + 1:02d}_c01.avi"
            encode(folder / name, square(colour, motion, *SIZE), "mjpeg")
            lines.append(f"{name} {i + 1}")
    (lists / "trainlist01.txt").write_text("\n".join(lines) + "\n")


def frame_folders(folder: Path) -> None:
    """A folder of PNG files for each clip."""
    for name, _, frames in _clips():
        (folder / name).mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"frame{i + 1}.png")


def zips(folder: Path) -> None:
    """Two archives, in each of which a folder of pictures is a clip."""
    frame_folders(folder)
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    for archive, clips in (("one.zip", inside[:4]), ("two.zip", inside[4:])):
        with zipfile.ZipFile(folder / archive, "w") as file:
            for path in sorted(path for clip in clips for path in clip.iterdir()):
                file.write(path, path.relative_to(folder))
                path.unlink()
    for path in inside:
        path.rmdir()


def strips(folder: Path) -> None:
    """Pictures of all frames of a clip side by side."""
    for name, _, frames in _clips():
        Image.fromarray(np.concatenate(list(frames), axis=1)).save(folder / f"{name}.png")


def somebodys_tars(folder: Path) -> None:
    """A WebDataset tar, written by the library of this name."""
    import webdataset

    with webdataset.TarWriter(str(folder / "000.tar")) as tar:
        for name, caption, frames in _clips():
            path = encode(folder / f"{name}.mp4", frames)
            tar.write({"__key__": name, "mp4": path.read_bytes(), "txt": caption})
            path.unlink()


def frame(folder: Path) -> None:
    """A picture of a digit, as a first frame."""
    picture = np.zeros((28, 28), np.uint8)
    picture[6:22, 12:16] = 255
    Image.fromarray(picture).save(folder / "frame.png")


def detectors(folder: Path) -> None:
    """Small networks with the signatures of published ones, and a `models.py` as the authors of one have it."""
    import torch

    class Classifier(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 4)).flatten(1)[:, :10]

    class I3D(torch.nn.Module):
        def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
            return torch.nn.functional.avg_pool3d(x, (8, 56, 56)).flatten(1)

    torch.jit.script(I3D()).save(folder / "i3d_torchscript.pt")
    for name in ("videomae.pt", "vjepa.pt", "c3d.pt"):
        torch.jit.script(Classifier()).save(folder / name)
    (folder / "models.py").write_text(_MODELS)


_MODELS = """
import torch


class vit_giant_patch14_224(torch.nn.Module):
    def forward_features(self, x):
        return x.mean((2, 4)).flatten(1)[:, :10]
"""


def bench(folder: Path) -> None:
    """The benchmarks of the checkout, unless this is one."""
    if not (folder / "bench").exists():
        (folder / "bench").symlink_to(Path(__file__).resolve().parents[2] / "bench")


MAKERS: dict[str, Callable[[Path], None]] = {
    "my-clips": my_clips,
    "by-class": by_class,
    "animations": animations,
    "UCF-101": ucf_101,
    "frame-folders": frame_folders,
    "zips": zips,
    "strips": strips,
    "somebodys-tars": somebodys_tars,
}
# These make files in the current folder instead of a folder of their name.
HERE: dict[str, Callable[[Path], None]] = {"detectors": detectors, "frame.png": frame, "bench": bench}


def main() -> None:
    """Make each of the named things."""
    for name in sys.argv[1:]:
        if name.startswith("runs/"):
            _train(Path(name))
        elif name in HERE:
            HERE[name](Path.cwd())
        else:
            path = Path(name).absolute()
            path.mkdir()
            MAKERS[name](path)


def _train(run: Path) -> None:
    """Train two steps of the preset that a run folder is named after."""
    from fastvgan.train import main as train

    preset = run.name.rpartition("-")[0]
    data = ["--data", "my-clips"] if preset.startswith("clips") else []
    shortest = ["--steps", "2", "--batch-size", "8", "--base-width", "8", "--evaluate-clips", "16"]
    status = train(["--preset", preset, "--run-dir", str(run), *data, *shortest])
    assert status == 0, status


if __name__ == "__main__":
    main()
