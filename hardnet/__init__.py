"""Patch descriptors: HardNet, L2-Net, TFeat and RootSIFT behind one interface.

>>> import hardnet
>>> descriptor = hardnet.load("rootsift")           # or a weights name, or a path to a weights file
>>> patches = np.zeros((2, 41, 41), np.uint8)
>>> descriptor.describe(patches).shape              # (N, 41, 41) -> (N, 128) float32 unit rows
(2, 128)
"""

from hardnet.descriptors.descriptor import PatchDescriptor, dequantise, quantise
from hardnet.descriptors.loading import load
from hardnet.errors import DeviceMemoryError, HardnetError, PatchSetError, PrecisionError, TrainingError, WeightsError
from hardnet.shapes.estimators import Estimator, load_estimator

__all__ = [
    "DeviceMemoryError",
    "Estimator",
    "HardnetError",
    "PatchDescriptor",
    "PatchSetError",
    "PrecisionError",
    "TrainingError",
    "WeightsError",
    "dequantise",
    "load",
    "load_estimator",
    "quantise",
]
