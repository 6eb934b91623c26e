"""Keep the caches of oneDNN's kernels small: on a CPU, they would take gigabytes during training.

oneDNN compiles a kernel for each size of a matrix multiplication. oneDNN and torch each cache 1,024 of them by default,
about a megabyte each. Packed rows nearly all have different lengths, so the caches fill up with kernels that are hardly
ever used again.
"""

from __future__ import annotations

import os

KERNELS = 64  # a packed row needs about 40, the same in each layer
VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def limit_kernel_caches() -> None:
    """Set the capacities, unless the environment does. Call it before the first multiplication of the process."""
    for name in VARIABLES:
        os.environ.setdefault(name, str(KERNELS))
