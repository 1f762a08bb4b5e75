"""Which decoder serves a set of clips, and why that one."""

import torch

from fastvgan.data.readers import ClipSet, Decoder
from fastvgan.errors import UserError
from fastvgan.machine.threads import count_processors


def choose(wanted: str, clips: ClipSet, device: torch.device, workers: int) -> tuple[Decoder, str]:
    """The decoder of that name, or the best one for "auto", and a phrase that says which it is and why.

    Args:
        device: where batches are wanted. workers: processes (PyAV) or threads (DALI) that decode.

    Raises:
        UserError: the decoder that was named cannot serve this set.
    """
    decoded = clips.media[0].kind == "shard"
    if decoded or wanted == "shards":
        if not decoded:
            raise UserError(
                "--decoder shards needs decoded frames: make them by python -m fastvgan.prepare SRC OUT --to shards"
            )
        if wanted not in ("auto", "shards"):
            raise UserError(f"the data is decoded already, so that --decoder {wanted} has nothing to do; leave it out")
        return _shards(clips, device)
    if wanted == "pyav":
        return _pyav(clips, workers, "asked for")
    from fastvgan.data.decoders import dali

    kind = "gpu" if device.type == "cuda" else "cpu"
    refusal = dali.refusal(clips, kind)
    if wanted == "dali":
        if refusal:
            raise UserError(f"--decoder dali cannot serve this data: {refusal}; take --decoder pyav")
        return _dali(clips, kind, workers, "asked for")
    if kind == "gpu" and not refusal:
        return _dali(clips, kind, workers, "its codecs are decoded on the GPU")
    return _pyav(clips, workers, refusal or "on a CPU it is as fast as DALI")


def _shards(clips: ClipSet, device: torch.device) -> tuple[Decoder, str]:
    from fastvgan.data.decoders.shards import ShardDecoder

    decoder = ShardDecoder(clips, device)
    where = "mapped into memory"
    if decoder.resident:
        where = f"all {decoder.resident.nbytes / 1e9:.2g} GB of them kept in the memory of {device} and cut there"
    return decoder, f"shards: decoded frames, {where}"


def _pyav(clips: ClipSet, workers: int, why: str) -> tuple[Decoder, str]:
    from fastvgan.data.decoders.pyav import PyAVDecoder

    count = f"{workers} process{'es' if workers != 1 else ''}" if workers else "the trainer's own process"
    return PyAVDecoder(clips, workers), f"pyav in {count}: {why}"


def _dali(clips: ClipSet, kind: str, workers: int, why: str) -> tuple[Decoder, str]:
    from fastvgan.data.decoders.dali import DaliDecoder

    threads = min(max(1, workers), count_processors())
    return DaliDecoder(clips, kind, threads), f"dali on the {kind.upper()}: {why}"
