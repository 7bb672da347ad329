"""Training descriptors as k-means keeps them: a byte a value, decoded in blocks while they are read.

Where faiss trains, it decodes with one of its own codecs, so that a training row takes its code and twelve bytes for
its word and its distance. A product quantizer with a part for every dimension (Jegou et al. 2011) whose 256 values are
those of the codes gives exactly the floats of `dequantise`. Centred rows are unit rows again: there each code has the
inverse of its row's norm before it, and the last bit may differ from that of `centre`, which divides.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from retrieval.vocabulary.faiss_blas import import_faiss

CHUNK = 1 << 16  # descriptors converted at a time


@dataclass(frozen=True, eq=False)
class Encoded:
    """Training descriptors, decoded where they are read.

    Attributes:
        stored: (N, D) uint8 codes or float32 rows, read where they are.
        quantisation: (lo, scale) of `stored`, if it is codes.
        mean: (D,) float32, subtracted from the descriptors before they are made unit rows again; None: they are as
            they are.
    """

    stored: np.ndarray
    quantisation: tuple[float, float] | None
    mean: np.ndarray | None

    @classmethod
    def of(cls, descriptors: np.ndarray, quantisation: tuple[float, float] | None, centred: bool) -> "Encoded":
        """Descriptors ready for training.

        Args:
            descriptors: (N, D) float32, or uint8 codes; read where they are.
            quantisation: (lo, scale) of uint8 codes: value = code / scale + lo.
            centred: whether their mean is subtracted.

        Raises:
            ValueError: wrong shape or type, or a value that is not finite.
        """
        if descriptors.dtype != np.uint8:
            descriptors, quantisation = dequantise(descriptors, None), None
            finite = bool(np.isfinite(descriptors).all())
        else:
            finite = bool(np.isfinite(value_table(quantisation)).all())
        if not finite:
            raise ValueError(f"descriptors hold values that are not finite (quantisation {quantisation})")
        return cls(descriptors, quantisation, _mean(descriptors, quantisation) if centred else None)

    @cached_property
    def codes(self) -> np.ndarray:
        """(N, B) uint8, what `codec` decodes: stored codes, or the bytes of float32 rows; centring makes a copy."""
        if self.quantisation is None:
            return centre(self.stored, self.mean).view(np.uint8)
        if self.mean is None:
            return np.ascontiguousarray(self.stored)
        return _scaled(self.stored, self.quantisation, self.mean)

    @cached_property
    def codec(self) -> Any:
        """A faiss index with `sa_decode`, for `codes`."""
        faiss = import_faiss()
        if self.quantisation is None:
            return faiss.IndexFlatL2(self.dimensions)
        values = np.tile(value_table(self.quantisation), (self.dimensions, 1))  # (D, 256)
        if self.mean is None:
            return _table_codec(faiss, values)
        codec = faiss.IndexRowwiseMinMax(_table_codec(faiss, values - self.mean[:, None]))
        codec.is_trained = True
        return codec

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def dimensions(self) -> int:
        """Length of a descriptor."""
        return int(self.stored.shape[1])

    def rows(self, which: slice | np.ndarray) -> np.ndarray:
        """Some of the descriptors as float32 (m, D), contiguous and centred where they are."""
        return centre(dequantise(self.stored[which], self.quantisation), self.mean)


def centre(descriptors: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """Descriptors (N, D) float32 less their training mean (D,), as unit rows; unchanged where `mean` is None.

    Tolias & Jegou 2014 do so for SIFT, whose components are all positive: signs say more around the mean.
    """
    if mean is None:
        return descriptors
    centred = np.empty_like(descriptors)
    for start in range(0, len(descriptors), CHUNK):
        rows = descriptors[start : start + CHUNK] - mean
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        centred[start : start + CHUNK] = rows
    return centred


def dequantise(descriptors: np.ndarray, quantisation: tuple[float, float] | None) -> np.ndarray:
    """Float32 descriptors from stored ones.

    Args:
        descriptors: (N, D) float32 (returned contiguous), or uint8 codes.
        quantisation: (lo, scale) of uint8 codes: value = code / scale + lo.

    Raises:
        ValueError: uint8 codes without a quantisation, or another type.
    """
    if descriptors.ndim != 2:
        raise ValueError(f"expected descriptors of shape (N, D), got {descriptors.shape}")
    if descriptors.dtype == np.float32:
        return np.ascontiguousarray(descriptors)
    if descriptors.dtype != np.uint8:
        raise ValueError(f"expected float32 descriptors or uint8 codes, got {descriptors.dtype}")
    table = value_table(quantisation)
    values = np.empty(descriptors.shape, np.float32)
    for start in range(0, len(descriptors), CHUNK):
        values[start : start + CHUNK] = table[descriptors[start : start + CHUNK]]
    return values


def value_table(quantisation: tuple[float, float] | None) -> np.ndarray:
    """(256,) float32: the value of every code."""
    if quantisation is None:
        raise ValueError("uint8 codes need their quantisation (lo, scale)")
    lo, scale = quantisation
    return np.arange(256, dtype=np.float32) / np.float32(scale) + np.float32(lo)


def _mean(descriptors: np.ndarray, quantisation: tuple[float, float] | None) -> np.ndarray:
    """(D,) float32, summed in float64."""
    total = np.zeros(descriptors.shape[1], np.float64)
    for start in range(0, len(descriptors), CHUNK):
        total += dequantise(descriptors[start : start + CHUNK], quantisation).sum(axis=0, dtype=np.float64)
    return (total / max(len(descriptors), 1)).astype(np.float32)


def _table_codec(faiss: Any, values: np.ndarray) -> Any:
    """A codec that decodes byte j of a row as `values[j, byte]`; values (D, 256) float32."""
    dimensions = len(values)
    codec = faiss.IndexPQ(dimensions, dimensions, 8)
    faiss.copy_array_to_vector(np.ascontiguousarray(values).ravel(), codec.pq.centroids)
    codec.is_trained = True
    return codec


def _scaled(descriptors: np.ndarray, quantisation: tuple[float, float] | None, mean: np.ndarray) -> np.ndarray:
    """(N, 8 + D) uint8: before each row of codes the factor and the offset (0) with which it is decoded, float32."""
    codes = np.empty((len(descriptors), 8 + descriptors.shape[1]), np.uint8)
    for start in range(0, len(descriptors), CHUNK):
        chunk = slice(start, start + CHUNK)
        norms = np.linalg.norm(dequantise(descriptors[chunk], quantisation) - mean, axis=1)
        factors = np.zeros((len(norms), 2), np.float32)
        factors[:, 0] = 1 / np.maximum(norms, np.float32(1e-12))
        codes[chunk, :8] = factors.view(np.uint8)
        codes[chunk, 8:] = descriptors[chunk]
    return codes
