"""Choice of the decoder for a set of clips."""

import torch

from fastvgan.data.readers import ClipSet, Decoder
from fastvgan.errors import UserError
from fastvgan.machine.threads import count_processors


def choose_decoder(name: str, clips: ClipSet, device: torch.device, workers: int) -> tuple[Decoder, str]:
    """Make the decoder called `name`, or the best one for "auto".

    Args:
        name: "auto", "pyav", "dali" or "shards".
        clips: The set to decode.
        device: Device of the batches.
        workers: Number of decoding processes (PyAV) or threads (DALI).

    Returns:
        The decoder, and a phrase for the user that names it and the reason for the choice.

    Raises:
        UserError: The decoder does not support the set.
    """
    is_decoded = clips.media[0].kind == "shard"
    if is_decoded or name == "shards":
        if not is_decoded:
            raise UserError(
                "--decoder shards needs decoded frames: make them with `fastvgan prepare SRC OUT --to shards`"
            )
        if name not in ("auto", "shards"):
            raise UserError(
                f"--decoder {name} does not apply to shards: their frames are decoded already; leave it out"
            )
        return _make_shards(clips, device)
    if name == "pyav":
        return _make_pyav(clips, workers, "requested")
    from fastvgan.data.decoders import dali

    kind = "gpu" if device.type == "cuda" else "cpu"
    obstacle = dali.find_obstacle(clips, kind)
    if name == "dali":
        if obstacle:
            raise UserError(f"--decoder dali does not support this data: {obstacle}; use --decoder pyav")
        return _make_dali(clips, kind, workers, "requested")
    if kind == "gpu" and not obstacle:
        return _make_dali(clips, kind, workers, "the GPU decodes its codecs")
    return _make_pyav(clips, workers, obstacle or "on a CPU it is as fast as DALI")


def _make_shards(clips: ClipSet, device: torch.device) -> tuple[Decoder, str]:
    from fastvgan.data.decoders.shards import ShardDecoder

    decoder = ShardDecoder(clips, device)
    where = "mapped into memory"
    if decoder.resident:
        where = f"{decoder.resident.nbytes / 1e9:.2g} GB in the memory of {device}, cut there"
    return decoder, f"shards: decoded frames, {where}"


def _make_pyav(clips: ClipSet, workers: int, why: str) -> tuple[Decoder, str]:
    from fastvgan.data.decoders.pyav import PyAVDecoder

    count = f"{workers} process{'es' if workers != 1 else ''}" if workers else "the trainer's own process"
    return PyAVDecoder(clips, workers), f"pyav in {count}: {why}"


def _make_dali(clips: ClipSet, kind: str, workers: int, why: str) -> tuple[Decoder, str]:
    from fastvgan.data.decoders.dali import DaliDecoder

    threads = min(max(1, workers), count_processors())
    return DaliDecoder(clips, kind, threads), f"dali on the {kind.upper()}: {why}"
