"""Make the README's picture, sentences above the clips that a model makes of them.

python build_tools/site/sentences.py docs/sentences.gif --run digits
"""

import argparse
import sys
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fastvgan  # noqa: E402

SENTENCES = (
    "a blue 5 moving left and right",
    "the number seven, in red, rising, then falling",
    "a green 3 moving in a circle",
    "a yellow 8 moving left and right",
    "the digit 2 moving diagonally, drawn in purple",
    "in red, the digit nine is circling around",
    "a white 6 moving left and right",
    "a blue 4 moving in a circle",
)
COLUMNS, SIDE, GAP, LINE, SIZE = 4, 144, 12, 17, 14
BACKGROUND, INK = (22, 24, 32), (236, 238, 244)


def main() -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the .gif file to write")
    parser.add_argument("--run", default="digits", help="a model as fastvgan.from_pretrained takes it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fps", type=int, default=10)
    given = parser.parse_args()
    generator = fastvgan.from_pretrained(given.run)
    clips = [generator.generate(text=text, n=1, seed=given.seed + i)[0].numpy() for i, text in enumerate(SENTENCES)]
    frames = [draw_frame([clip[t] for clip in clips]) for t in range(len(clips[0]))]
    # One palette of all frames' colours, so that still pixels do not flicker.
    palette = Image.fromarray(np.concatenate([np.array(frame) for frame in frames])).quantize(255)
    pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = round(1000 / given.fps)
    pictures[0].save(given.out, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True)
    print(f"{given.out}: {frames[0].width}x{frames[0].height}, {given.out.stat().st_size / 1000:.0f} kB")


def draw_frame(frames: list[np.ndarray]) -> Image.Image:
    """Return one picture of all clips' frames with their sentences.

    Args:
        frames: one uint8 (H, W, 3) for each of SENTENCES.
    """
    font = ImageFont.load_default(SIZE)
    texts = [textwrap.wrap(text, 18) for text in SENTENCES]
    above = GAP // 2 + LINE * max(map(len, texts))
    cell = SIDE + GAP, above + SIDE + GAP
    rows = -(-len(frames) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * cell[0] + GAP, rows * cell[1] + GAP // 2), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for i, (frame, text) in enumerate(zip(frames, texts, strict=True)):
        left, top = GAP + i % COLUMNS * cell[0], i // COLUMNS * cell[1] + GAP // 2
        for j, line in enumerate(text):
            pen.text((left, top + j * LINE), line, INK, font)
        picture = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        canvas.paste(picture, (left, top + above - 2))
    return canvas


if __name__ == "__main__":
    main()
