"""How long planning an epoch takes, from an index of lengths alone: python benchmarks/plan.py [--samples 665298]

Lengths are made up: a picture of 576 slots and 30 to 1,200 tokens of text. One process, one core.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from machine import resident

from vistune.data import plan_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=665_298)
    parser.add_argument("--samples-per-step", type=int, default=128)
    parser.add_argument("--tokens-per-row", type=int, default=4096)
    given = parser.parse_args()
    lengths = (576 + np.random.default_rng(0).integers(30, 1200, given.samples)).tolist()
    steps = -(-given.samples // given.samples_per_step)
    began = time.perf_counter()
    plan = plan_stage(
        lengths, samples_per_step=given.samples_per_step, tokens_per_row=given.tokens_per_row, steps=steps, seed=0
    )
    seconds = time.perf_counter() - began
    rows = sum(map(len, plan.steps))
    filled = sum(lengths) / (rows * given.tokens_per_row)
    peak = resident() // 2**20
    print(
        f"{given.samples:,} samples, {steps:,} steps, {rows:,} rows {filled:.1%} full: {seconds:.1f} s, peak {peak} MB"
    )


if __name__ == "__main__":
    main()
