"""The captions of the data in the form that a network's text encoder takes, computed once per run."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.data.source import Source
from fastvgan.models.config import ModelConfig
from fastvgan.models.text.cache import cache_path, read_cache, write_cache
from fastvgan.models.text.inputs import describe_cut_captions, to_text_inputs
from fastvgan.models.vocabulary import Vocabulary

logger = logging.getLogger("fastvgan")
_CACHE = "text"  # folder in a run folder with the embeddings of its captions


def phrasings_of(source: Source) -> Sequence[Sequence[str]]:
    """Return the phrasings of each caption of a source; empty if its captions are fixed."""
    return source.phrasings if isinstance(source, DigitsSource) else ()


class CaptionTable:
    """Word indices, or embeddings by a pretrained text model, of each caption and of its phrasings.

    Args:
        model: the model, with its vocabulary or its text encoder.
        source: the data.
        device: device of the tables, on which a text encoder runs.
        run: run folder in which embeddings may have been written; None for no folder.

    Attributes:
        phrasings: number of phrasings of each caption; 0 if captions are fixed.
    """

    def __init__(self, model: ModelConfig, source: Source, device: torch.device | str = "cpu", run: Path | None = None):
        phrasings = phrasings_of(source)
        self.phrasings = len(phrasings[0]) if phrasings else 0
        captions = [*source.captions, *(text for row in phrasings for text in row)]
        self._remark: str | None = None
        self._unsaved: tuple[str, torch.Tensor] | None = None  # name of a file in _CACHE, and its content
        table = self._read(model, captions, device, run)
        fixed, free = table.to(device).tensor_split([len(source.captions)])
        self._fixed = fixed  # (M, L) or (M, E)
        self._free = free.unflatten(0, (-1, self.phrasings)) if self.phrasings else None  # (M, P, L) or (M, P, E)

    def __call__(self, captions: torch.Tensor, phrasing: torch.Tensor | None = None) -> torch.Tensor:
        """Look captions up.

        Args:
            captions: their indices, int64 (N,) or (N, K).
            phrasing: which phrasing of each clip's captions, int64 (N,); None for the captions of the source.

        Returns:
            (N, L) or (N, K, L), or with E instead of L.
        """
        if phrasing is None or self._free is None:
            return self._fixed[captions]
        return self._free[captions, phrasing if captions.dim() == 1 else phrasing[:, None]]

    def save(self, run: Path) -> None:
        """Write new embeddings to a run folder, and log which captions are cut; log a warning if writing fails."""
        if self._remark is not None:
            logger.warning(self._remark)
        if self._unsaved is None:
            return
        name, embeddings = self._unsaved
        path = run / _CACHE / name
        try:
            write_cache(path, embeddings)
        except OSError as error:
            logger.warning(
                "cannot write %s: %s; training continues, and a resumed run encodes the captions again",
                *(path, error.strerror),
            )
        self._unsaved = None

    def _read(
        self, model: ModelConfig, captions: Sequence[str], device: torch.device | str, run: Path | None
    ) -> torch.Tensor:
        if model.text_encoder is None:
            self._remark = describe_cut_captions(model, captions)
            # Longer sentences only occur when generating: the table has no padding for them.
            return Vocabulary(model.vocabulary, model.caption_length).encode(captions)
        path = None if run is None else cache_path(run / _CACHE, model.text_fingerprint, captions)
        found = None if path is None else read_cache(path, (len(captions), model.text_width))
        if found is not None:
            return found
        self._remark = describe_cut_captions(model, captions)
        found = to_text_inputs(model, captions, device)
        if path is not None:
            self._unsaved = path.name, found
        return found
