"""Patch descriptors: HardNet, L2-Net, TFeat and RootSIFT behind one interface.

>>> import hardnet
>>> descriptor = hardnet.load("rootsift")          # or a weights name, or a path to a weights file
>>> rows = descriptor.describe(patches)             # (N, 41, 41) -> (N, 128) float32 unit rows
"""

from hardnet.descriptors.descriptor import PatchDescriptor, dequantise, quantise
from hardnet.descriptors.loading import load
from hardnet.errors import HardnetError, PatchSetError, TrainingError, WeightsError

__all__ = [
    "HardnetError",
    "PatchDescriptor",
    "PatchSetError",
    "TrainingError",
    "WeightsError",
    "dequantise",
    "load",
    "quantise",
]
