"""Freed memory is kept for the next step's tensors, seen in the pages that the system has to clear."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource
import torch
from torch import nn
from dim_ray.core.training.memory import keep_freed_memory

network = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten())
images = torch.zeros(96, 1, 64, 64)  # whose maps are 47 MB: above what glibc keeps by itself

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for prepare in (lambda: None, keep_freed_memory):
    prepare()
    for number in range(12):
        if number == 4:
            before = faults()
        torch.autograd.backward(network(images).sum())
    print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc's allocator that is told")
def test_process_that_keeps_its_memory_clears_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 10_000
    assert kept < 0.2 * given_back
