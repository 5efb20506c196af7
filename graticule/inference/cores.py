"""What a process that answers many at once does with its cores and its memory."""

import ctypes

import torch

CORES = torch.get_num_threads()
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def share_cores(parts: int) -> None:
    """Let networks that the calling thread asks use one part of the cores; of one part, all.

    Small networks on two cores do less than twice the work of one: threads with a core each answer more photos. The
    last digits of an answer depend on how many cores worked on it.
    """
    torch.set_num_threads(max(1, CORES // parts))


def keep_memory() -> bool:
    """Let the C library keep what a network gives back, and whether it does (glibc; no other is asked).

    It hands large arrays back to the kernel after each layer and gets them anew, a page fault every 4 KiB, the more the
    more photos there are in a batch. Kept, a batch of 16 photos costs a processor a quarter less a photo than one of 4;
    a process then holds what its largest batch needed. Call it before there are threads: those that come later share
    one heap, since the others' heaps are too small for a batch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    most = 2**31 - 1
    return all([mallopt(M_MMAP_THRESHOLD, most // 2), mallopt(M_TRIM_THRESHOLD, most), mallopt(M_ARENA_MAX, 1)])
