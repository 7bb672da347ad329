"""Products and convolutions in single precision, without TensorFloat-32, for as long as some thread asks for it.

torch's switches are those of the whole process. They are turned by the first thread that enters and turned back by the
last one that leaves, so that neither a thread beside it nor the program around it is left with other ones.
"""

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_inside = 0
_before: tuple[bool, str] = (False, "highest")


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """Neither cuDNN's convolutions nor products of matrices are rounded to the ten bits of TF32."""
    global _inside, _before
    with _lock:
        if not _inside:
            _before = (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                torch.backends.cudnn.allow_tf32 = _before[0]
                torch.set_float32_matmul_precision(_before[1])
