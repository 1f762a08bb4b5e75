"""DALI's clips against PyAV's: the same samples, from any batch on, whatever becomes of the files."""

import dataclasses
import functools
import itertools
import os
import shutil
import tempfile
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from make_videos import CODECS, can_encode, encode, make_numbered, number_of

from fastvgan.data import readers
from fastvgan.data.decoders import choice, dali, dali_pipeline
from fastvgan.data.decoders.dali import DaliDecoder, find_obstacle
from fastvgan.data.decoders.pyav import PyAVDecoder
from fastvgan.data.media.frames import probe
from fastvgan.data.media.types import Media
from fastvgan.data.readers import ClipSet
from fastvgan.data.sampling import Cut, Member, Sampler, sample_numbers
from fastvgan.errors import UserError

pytestmark = pytest.mark.dali

on_both = pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
LARGEST, MEAN = 16, 2.5  # the docstring of DaliDecoder says 11 and 2.1, of noise
AT_AN_EDGE = 20  # the largest in numbered clips, of 220 levels from one pixel to the next: 17 in most batches


def noisy(frames: int, height: int, width: int) -> np.ndarray:
    """Much detail in brightness and little in colour, of which swscale keeps less; uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 200, (1, 1, height // 8 + 8, width // 8 + 8)))
    fine = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic")[0, 0].clamp(0, 200).numpy()
    moved = np.stack([fine[t : t + height, 2 * (t % 24) : 2 * (t % 24) + width] for t in np.arange(frames) % 48])
    tint = np.stack(np.broadcast_arrays(np.linspace(0, 55, width), np.linspace(55, 0, height)[:, None], 30), -1)
    return (moved[..., None] + tint).astype(np.uint8)


DECODED = {"cpu": ("vp9", "mjpeg"), "gpu": ("vp9", "h264", "hevc", "av1")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Device → clips that DALI decodes there: a noisy one per codec, and numbered ones, one of them short."""

    @functools.cache
    def make_clips(device: str) -> Path:
        folder = tmp_path_factory.mktemp(device)
        codecs = [codec for codec in DECODED[device] if can_encode(codec)]
        for codec in codecs:
            encode(folder / f"noisy {codec}{CODECS[codec][0]}", noisy(40, 240, 320), codec)
        for i in range(7):
            codec = codecs[i % len(codecs)]
            path = folder / f"numbered {i} schön{CODECS[codec][0]}"
            encode(path, make_numbered(6 if i == 3 else 40 + i, 160, 200), codec)
        return folder

    return make_clips


@pytest.fixture
def folder(folders, request) -> Path:
    """That of the test's device, the CPU's where it has none."""
    callspec = getattr(request.node, "callspec", None)
    return folders(callspec.params.get("device", "cpu") if callspec else "cpu")


def clips_of(paths, **cut) -> ClipSet:
    paths = sorted(paths)
    media = [Media("video", path) for path in paths]
    found = [probe(m) for m in media]
    members = [Member(f.frames, (i,), i % 3) for i, f in enumerate(found)]
    return ClipSet([p.name for p in paths], media, found, Sampler(members, Cut(**{"height": 64, "width": 64, **cut})))


def take(decoder, count: int, size: int = 4, seed: int = 5, start: int = 0, rank: int = 0, world: int = 1):
    batches = decoder.batches(seed, sample_numbers(size, start, rank, world))
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_close(got, wanted, largest=LARGEST):
    for a, b in zip(got, wanted, strict=True):
        assert a.video.shape == b.video.shape and a.video.dtype == torch.uint8
        difference = (a.video.cpu().int() - b.video.int()).abs()
        assert difference.max() <= largest and difference.double().mean() <= MEAN
        assert torch.equal(a.caption, b.caption) and torch.equal(a.label, b.label)


def numbers_of(batches) -> list[list[int]]:
    return [[number_of(frame.numpy()) for frame in video.cpu()] for clips in batches for video in clips.video]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(dali, "_SAMPLES", 1)
    monkeypatch.setattr(dali, "_BATCHES", 3)


@pytest.fixture
def no_pyav(monkeypatch):
    """Without this, what DALI gets wrong could be put right by PyAV and not be noticed."""
    monkeypatch.setattr(dali, "decode_sample", lambda *_: pytest.fail("PyAV was called in"))


@pytest.fixture
def blame_calls(monkeypatch) -> list:
    """Grows by one with each time that DALI fails."""
    calls, blame = [], dali._Run._blame
    monkeypatch.setattr(dali._Run, "_blame", lambda *args: (calls.append(args), blame(*args)))
    return calls


@on_both
@pytest.mark.parametrize(
    "cut",
    [
        {"frames": 4, "height": 240, "width": 320},
        {"frames": 4, "height": 64, "width": 64, "mirror": True},
        {"frames": 3, "height": 112, "width": 96, "stride": 3, "channels": 1},
        {"frames": 3, "height": 97, "width": 131, "max_stride": 5, "mirror": True, "crop": "center"},
        {"frames": 3, "height": 60, "width": 90, "channels": 1, "mirror": True},
        {"frames": 4, "height": 64, "width": 64, "reverse": True},
        {"frames": 3, "height": 64, "width": 64, "max_stride": 5, "reverse": True, "mirror": True},
    ],
    ids=lambda cut: "-".join(f"{key}{value}" for key, value in cut.items()),
)
def test_pixels_are_those_of_pyav(folder, cut, device, no_pyav):
    clips = clips_of(folder.glob("noisy*"), **cut)
    assert find_obstacle(clips, device) is None
    got = take(DaliDecoder(clips, device), 3)
    assert all(c.video.device.type == ("cuda" if device == "gpu" else "cpu") for c in got)
    assert_close(got, take(PyAVDecoder(clips, 0), 3))


@on_both
@pytest.mark.parametrize(
    "cut",
    [{"frames": 5}, {"frames": 4, "stride": 4}, {"frames": 4, "max_stride": 6}],
    ids=["one stride", "stride, held", "strides"],
)
def test_frames_are_exactly_those_drawn(folder, cut, device, no_pyav):
    clips = clips_of(folder.glob("numbered*"), crop="center", **cut)
    draws = [clips.sampler.draw(5, number) for number in range(24)]
    assert any(draw.indices[-1] == draw.indices[-2] for draw in draws) == ("stride" in cut)  # a held frame is there
    assert numbers_of(take(DaliDecoder(clips, device), 6)) == [list(draw.indices) for draw in draws]


@on_both
def test_times_that_do_not_begin_at_zero(folder, tmp_path, device, no_pyav):
    for suffix in (".webm", ".mp4"):
        path = tmp_path / f"late{suffix}"
        with av.open(str(folder / "numbered 0 schön.webm")) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.pts = packet.dts = packet.pts + 400
                    packet.stream = stream
                    target.mux(packet)
        clips = clips_of([path], frames=4, crop="center")
        assert clips.found[0].pts[0] > 0
        got = numbers_of(take(DaliDecoder(clips, device), 3))
        assert got == [list(clips.sampler.draw(5, number).indices) for number in range(12)]


def test_vp8_with_packets_that_are_not_shown(tmp_path, caplog):
    path, plain = tmp_path / "hidden.webm", tmp_path / "plain.webm"
    encode(plain, make_numbered(60, 160, 160), "vp8", g="6", keyint_min="6")
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                hidden = av.Packet(bytes([bytes(packet)[0] & ~0x10]) + bytes(packet)[1:])  # the bit "show frame"
                hidden.pts = hidden.dts = packet.pts + 1
                hidden.time_base, key = packet.time_base, packet.is_keyframe and packet.pts
                packet.stream = hidden.stream = stream
                target.mux([packet, hidden] if key else [packet])
    clips = clips_of([path], frames=4, crop="center")
    assert clips.found[0].frames == 60 and find_obstacle(clips, "cpu") is None
    got = numbers_of(take(DaliDecoder(clips), 3))
    assert got == [list(clips.sampler.draw(5, number).indices) for number in range(12)]
    assert "PyAV decodes it" in caplog.text


def test_resume_anywhere_is_bit_identical(folder, small_chunks, no_pyav):
    clips = clips_of(folder.glob("n*"), frames=3, mirror=True)
    straight = take(DaliDecoder(clips, workers=2), 9)  # nine clips in an epoch, three batches of four in a chunk
    for start in (1, 2, 4, 7):
        for a, b in zip(take(DaliDecoder(clips), 9 - start, start=start), straight[start:], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_chunks_do_not_show(folder, small_chunks, monkeypatch, no_pyav):
    clips = clips_of(folder.glob("n*"), frames=3, max_stride=4)
    short = take(DaliDecoder(clips), 7)
    monkeypatch.setattr(dali, "_BATCHES", 64)
    for a, b in zip(short, take(DaliDecoder(clips), 7), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_ranks_share_a_batch(folder, no_pyav):
    clips = clips_of(folder.glob("n*"), frames=3)
    whole = take(DaliDecoder(clips), 3, size=6)
    ranks = [take(DaliDecoder(clips), 3, size=3, rank=rank, world=2) for rank in range(2)]
    for k in range(3):
        assert torch.equal(torch.cat([rank[k].video for rank in ranks]), whole[k].video)
    seen = [torch.cat([clips.caption for clips in rank[:1]]).tolist() for rank in ranks]
    assert not set(seen[0]) & set(seen[1])


def test_names_that_a_file_list_cannot_hold(folder, tmp_path, no_pyav):
    paths = [tmp_path / name for name in ('a "b" c.webm', "line\nbreak.webm", "日本 ü\t.webm", " #1 2 3")]
    for path in paths:
        shutil.copy(next(folder.glob("numbered 0*")), path)
    clips = clips_of(paths, frames=3, crop="center")
    got = numbers_of(take(DaliDecoder(clips), 2))
    assert got == [list(clips.sampler.draw(5, number).indices) for number in range(8)]


def test_a_relative_path(folder, monkeypatch, no_pyav):
    monkeypatch.chdir(folder)
    clips = clips_of([path.relative_to(folder) for path in folder.glob("numbered*")], frames=3)
    assert_close(take(DaliDecoder(clips), 2), take(PyAVDecoder(clips, 0), 2), AT_AN_EDGE)


DAMAGE = {
    "gone": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 3]),
}


@on_both
@pytest.mark.parametrize("harm", DAMAGE)
@pytest.mark.parametrize("when", ["at once", "in use", "unseen"])
def test_a_damaged_file_is_named_once_and_replaced_as_by_pyav(
    folder, tmp_path, caplog, small_chunks, blame_calls, harm, when, device
):
    readers.warn_once.cache_clear()
    for path in folder.glob("numbered*"):
        shutil.copy(path, tmp_path)
    clips = clips_of(tmp_path.glob("numbered*"), frames=30, crop="center")
    decoder = DaliDecoder(clips, device)
    batches = decoder.batches(5, sample_numbers(2, 0, 0, 1))
    got = [next(batches) for _ in range(5 if when == "in use" else 0)]
    for path in (clips.media[2].path, clips.media[5].path):
        DAMAGE[harm](path)
    if when == "unseen":  # as if the files had been so when the decoder was made
        decoder.stamps[:] = [dali._stamp(media) for media in clips.media]
    before = len(got)
    got += itertools.islice(batches, 12 - before)
    batches.close()
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    readers.warn_once.cache_clear()
    wanted = take(PyAVDecoder(clips, 0), 12 - before, size=2, start=before)
    assert numbers_of(got[before:]) == numbers_of(wanted)
    assert all(torch.equal(a.caption, b.caption) for a, b in zip(got[before:], wanted, strict=True))
    assert sorted(said) == sorted(record.getMessage() for record in caplog.records)
    assert all(any(clips.names[clip] in sentence for sentence in said) for clip in (2, 5))
    if when != "in use":  # there it may be seen before or after DALI has read on
        assert bool(blame_calls) == (when == "unseen")


def test_wrong_numbers_tell_by_themselves(folder, tmp_path, monkeypatch):
    """Times are rounded, so that of a long clip they may not tell."""
    monkeypatch.setattr(dali_pipeline, "_have_their_times", lambda *_: True)
    path = Path(shutil.copy(folder / "numbered 0 schön.webm", tmp_path))
    clips = clips_of([path, folder / "numbered 2 schön.webm"], frames=30, crop="center")
    DAMAGE["cut short"](path)
    got = take(DaliDecoder(clips), 3)
    assert {caption for batch in got for caption in batch.caption.tolist()} == {
        clips.names.index("numbered 2 schön.webm")
    }
    for numbers in numbers_of(got):
        assert numbers == list(range(numbers[0], numbers[0] + 30))


def test_what_only_dali_cannot_read_goes_through_pyav(folder, tmp_path, caplog, small_chunks, blame_calls):
    readers.warn_once.cache_clear()
    paths = list(folder.glob("numbered*"))
    paths.append(encode(tmp_path / "other.mp4", make_numbered(40, 160, 200), "h264"))
    clips = clips_of(paths, frames=3, crop="center")
    got = numbers_of(take(DaliDecoder(clips), 9))
    assert got == [list(clips.sampler.draw(5, number).indices) for number in range(36)]
    assert [r.getMessage() for r in caplog.records] == ["other.mp4: DALI cannot open it; PyAV decodes it"]
    assert len(blame_calls) <= 2, "once it is known, no pipeline gets the clip, but for one built before"


def test_what_pyav_writes_for_the_gpu_is_what_dali_takes_there(folders):
    """Without a GPU: each codec is made, read by PyAV, and refused for nothing but the device that is not there."""
    clips = clips_of(folders("gpu").glob("numbered*"), frames=3, crop="center")
    assert {found.codec for found in clips.found} == {codec for codec in DECODED["gpu"] if can_encode(codec)}
    assert {"vp9", "h264", "hevc"} <= {found.codec for found in clips.found}
    got = numbers_of(take(PyAVDecoder(clips, 0), 6))
    assert got == [list(clips.sampler.draw(5, number).indices) for number in range(24)]
    assert find_obstacle(clips, "gpu") == (None if torch.cuda.is_available() else "no CUDA device is available")


def test_mjpeg_is_left_to_pyav_on_a_gpu(folders):
    """DALI refuses it there ("not supported by the GPU variant"), so that a set that holds it goes through PyAV."""
    clips = clips_of(folders("cpu").glob("n*"), frames=3)
    assert find_obstacle(clips, "cpu") is None
    sentence = find_obstacle(clips, "gpu")
    assert "is mjpeg, which DALI does not decode on the GPU" in sentence
    decoder, why = choice.choose_decoder("auto", clips, torch.device("cuda"), 0)
    assert isinstance(decoder, PyAVDecoder) and sentence in why
    with pytest.raises(UserError, match="--decoder dali does not support this data: .*mjpeg"):
        choice.choose_decoder("dali", clips, torch.device("cuda"), 0)


@pytest.mark.gpu
def test_pyav_takes_over_what_dali_refuses_on_a_gpu_after_all(folders, caplog, small_chunks):
    """MJPEG is handed to DALI's GPU decoder anyway: no clip is lost, and the log names each file once."""
    readers.warn_once.cache_clear()
    clips = clips_of([*folders("gpu").glob("numbered*"), *folders("cpu").glob("numbered 1*")], frames=3, crop="center")
    got = numbers_of(take(DaliDecoder(clips, "gpu"), 9))
    assert got == [list(clips.sampler.draw(5, number).indices) for number in range(36)]
    assert any("PyAV decodes" in record.getMessage() and ".avi" in record.getMessage() for record in caplog.records)


def test_dali_is_given_up_where_it_fails_on_and_on(folder, caplog, monkeypatch, small_chunks):
    readers.warn_once.cache_clear()
    built = []

    class Broken(dali.Pipeline):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            built.append(self)

        def next(self):
            raise dali.DaliError("DALI failed: out of order")

    monkeypatch.setattr(dali, "Pipeline", Broken)
    clips = clips_of(folder.glob("numbered*"), frames=3, crop="center")
    got = numbers_of(take(DaliDecoder(clips), 12))
    assert got == [list(clips.sampler.draw(5, number).indices) for number in range(48)]
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "DALI failed: out of order; PyAV decodes one batch instead"
    assert said[1:] == ["DALI failed: out of order, 3 times in a row; PyAV decodes all clips from now on"]
    assert len(built) < 25


def test_a_clip_at_which_dali_fails_is_found(folder, caplog, monkeypatch, small_chunks):
    readers.warn_once.cache_clear()

    class Broken(dali.Pipeline):
        def next(self):
            if any(draw.clip == 3 for draw in self._batches[self._place]):
                raise dali.DaliError("DALI failed: no idea why")
            return super().next()

    monkeypatch.setattr(dali, "Pipeline", Broken)
    clips = clips_of(folder.glob("numbered*"), frames=3, crop="center")
    got = numbers_of(take(DaliDecoder(clips), 9))
    assert got == [list(clips.sampler.draw(5, number).indices) for number in range(36)]
    (record,) = caplog.records
    assert record.getMessage() == f"{clips.names[3]}: DALI failed: no idea why; PyAV decodes it"


def test_all_files_gone(folder, tmp_path):
    for path in folder.glob("numbered*"):
        shutil.copy(path, tmp_path)
    clips = clips_of(tmp_path.glob("numbered*"), frames=3)
    decoder = DaliDecoder(clips)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="not one clip"):
        take(decoder, 1)


@pytest.mark.parametrize("how", ["close", "drop", "exhaust"])
def test_nothing_is_left_behind(folder, tmp_path, monkeypatch, small_chunks, how):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads, tasks = set(threading.enumerate()), set(os.listdir("/proc/self/task"))
    clips = clips_of(folder.glob("numbered*"), frames=3)
    numbers = itertools.islice(sample_numbers(4, 0, 0, 1), 8)
    batches = DaliDecoder(clips, workers=2).batches(5, numbers)
    next(batches)
    next(batches)
    (there,) = tmp_path.iterdir()
    assert len(list(there.glob("list*"))) <= 4, "of this chunk and the next, two pipelines each"
    if how == "close":
        batches.close()
    if how == "exhaust":
        assert len(list(batches)) == 6
    del batches
    assert not list(tmp_path.iterdir())
    assert set(threading.enumerate()) <= threads
    assert len(set(os.listdir("/proc/self/task")) - tasks) <= 1, "DALI's own threads are gone, but for one it keeps"


def test_old_lists_are_removed(folder, tmp_path, monkeypatch, small_chunks):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clips = clips_of(folder.glob("numbered*"), frames=1)
    batches = DaliDecoder(clips).batches(5, sample_numbers(1, 0, 0, 1))
    for _ in range(20):
        next(batches)
    assert len(list(tmp_path.glob("*/list*"))) <= 3
    batches.close()


def test_refusals(folder, tmp_path, monkeypatch):
    paths = list(folder.glob("noisy*"))
    clips = clips_of(paths, frames=3)
    assert find_obstacle(clips, "cpu") is None

    def change_media(media=None, **found):
        return ClipSet(
            clips.names,
            [clips.media[0], media or clips.media[1]],
            [clips.found[0], clips.found[1]._replace(**found)],
            clips.sampler,
        )

    name = clips.names[1]
    for other, word in [
        (change_media(codec="h264"), "h264"),
        (change_media(rotation=90), "rotated"),
        (change_media(colours="bt709"), "bt709"),
        (change_media(steady=False), "variable frame rate"),
        (change_media(pts=None), "times"),
        (change_media(dataclasses.replace(clips.media[1], kind="tar")), "tar"),
        (change_media(dataclasses.replace(clips.media[1], path="s3://a/b.webm")), "local"),
    ]:
        sentence = find_obstacle(other, "cpu")
        assert sentence.startswith(name) and word in sentence
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_obstacle(clips_of(folder.glob("noisy vp9*"), frames=3), "gpu") == "no CUDA device is available"
    monkeypatch.setitem(__import__("sys").modules, "nvidia.dali", None)
    assert "pip install" in find_obstacle(clips, "cpu")
