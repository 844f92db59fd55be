"""What the processes of the distributed tests share."""

import time

import torch.distributed as dist


def leave():
    """Part from the others, and give gloo's threads a moment.

    DDP keeps them alive beyond the end of the process group, and one that is still freeing the tensors of the last
    exchange while the interpreter ends aborts the process.
    """
    dist.destroy_process_group()
    time.sleep(0.5)
