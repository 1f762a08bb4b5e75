"""Generate clips from sentences, and save them as a GIF and as videos.

python examples/generate_clips.py
python examples/generate_clips.py "a red 7 moving up and down" "a green 0 moving in a circle" --seed 4
python examples/generate_clips.py --model runs/NAME "…"        a run of your own
"""

import argparse
from pathlib import Path

import fastvgan

SENTENCES = ["a blue 5 moving left and right", "a red 3 moving up and down", "a green 8 moving in a circle"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    parser.add_argument("--model", default="digits", help="shipped model, run folder, file or Hub id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, help="length; by default that of the training clips")
    parser.add_argument("--out", type=Path, default=Path("clips"), help="folder")
    given = parser.parse_args(arguments)

    generator = fastvgan.from_pretrained(given.model)
    # One seed per sentence: the same seed and sentence always make the same clip.
    seeds = [given.seed + i for i in range(len(given.sentences))]
    videos = generator(given.sentences, seed=seeds, frames=given.frames)

    given.out.mkdir(parents=True, exist_ok=True)
    videos.save(given.out / "all.gif")
    for number, (sentence, video) in enumerate(zip(given.sentences, videos, strict=True)):
        path = given.out / f"{number}.mp4"
        video.save(path)
        print(f"{path}: {sentence}")


if __name__ == "__main__":
    main()
