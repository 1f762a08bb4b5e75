"""Trains, generates and, on the plain install, asks for what it lacks, in one process: `plain_run.py FOLDER`."""

import json
import sys
from importlib import import_module, util
from pathlib import Path

folder = Path(sys.argv[1])
from fastvgan.layers import Conv3d, ConvLSTM, fuse  # noqa: E402, F401

loaded = sorted({"numpy", "av", "tensorboard", "matplotlib", "webdataset", "sklearn", "scipy"} & set(sys.modules))


def main(command, *arguments):
    return import_module(f"fastvgan.{command}").main(list(arguments))


RUN = str(folder / "run")
small = ["--frames", "4", "--base-width", "8", "--family", "conv3d"]
assert main("train", "--steps", "1", "--batch-size", "2", "--run-dir", RUN, "--evaluate-clips", "16", *small) == 0
for name in ("x.gif", "x.png"):
    caption = "a green 3 moving left and right"
    main("generate", "--run", RUN, "--text", caption, "--n", "2", "--out", str(folder / name))

refused = {}
if util.find_spec("numpy") is None:
    from fastvgan.errors import UserError

    (folder / "tests").mkdir()
    for command in json.loads(sys.argv[2]):
        before = sorted(folder.rglob("*"))
        try:
            main(*command)
        except UserError as error:
            refused[" ".join(command)] = str(error)
        assert sorted(folder.rglob("*")) == before, f"{command} wrote something"
(folder / "found.json").write_text(json.dumps({"loaded": loaded, "refused": refused}))
