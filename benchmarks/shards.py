"""Planning a source of a million shards, simulated: python benchmarks/shards.py [--shards 1000000] [--ranks 1024]

Lengths are made up (a picture of 576 slots and 5 to 400 tokens of text; a tenth are dialogues of 200 to 1,200); nothing
is downloaded or encoded. The windows of `--read` lanes are planned as a run plans them, one process, one core; what is
said of all lanes is extrapolated from these:

  waste      tokens of a row that nothing fills
  imbalance  the slowest process's work in a step over the mean's, work as a 7B model has it: linear in tokens, and with
             the square of each sample's length; rows are drawn from those that were planned
  memory     of a process's windows in Python objects and arrays, two of each of its lanes
  state      what a checkpoint keeps to go on from: three values a lane
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc

import numpy as np

from vistune.data import ShardStream

WIDTH, LAYERS, LINEAR = 4096, 32, 6.5e9  # of Llama 7B: hidden width, layers, weights of linear maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=1_000, help="of a shard")
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2, help="of a rank in a step")
    parser.add_argument("--tokens-per-row", type=int, default=4096)
    parser.add_argument("--window", type=int, default=4, help="shards")
    parser.add_argument("--read", type=int, default=200, help="shards that are planned in truth")
    given = parser.parse_args()
    lanes = given.ranks * given.rows
    names = tuple(f"s3://bucket/{number:07}.tar" for number in range(given.shards))
    stream = ShardStream(names, lanes, given.window, 10**6, given.tokens_per_row, seed=0)
    began = time.perf_counter()
    stream.shards_of(0, 0)
    order = time.perf_counter() - began
    fills, work, seconds, held = [], [], [], []
    for lane in range(given.read // given.window):
        chance = np.random.default_rng(lane)
        count = given.samples * len(stream.shards_of(lane, 0))
        text = np.where(chance.random(count) < 0.1, chance.integers(200, 1200, count), chance.integers(5, 400, count))
        lengths = (576 + text).tolist()
        began = time.perf_counter()
        stream.rows_of(lane, 0, lengths)
        seconds.append(time.perf_counter() - began)
        tracemalloc.start()
        rows = stream.rows_of(lane, 0, lengths)
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert sorted(k for row in rows for k in row) == list(range(count))
        for row in rows:
            own = np.array([lengths[k] for k in row], float)
            fills.append(own.sum() / given.tokens_per_row)
            work.append(6 * LINEAR * own.sum() + 6 * LAYERS * WIDTH * (own**2).sum())
    chance = np.random.default_rng(0)
    drawn = chance.choice(np.array(work), (500, given.ranks, given.rows)).sum(axis=2)
    state = len(json.dumps([[12345, 1234567, "0123456789abcdef"]] * lanes))
    planned = given.read // given.window
    shard = sum(seconds) / planned / given.window  # seconds
    slowest = np.mean(drawn.max(axis=1) / drawn.mean(axis=1)) - 1
    print(f"planned: {planned} windows of {given.window} shards of {given.samples:,} samples, {len(fills):,} rows")
    print(f"  {np.median(seconds):.2f} s a window ({min(seconds):.2f}-{max(seconds):.2f})")
    print(f"  order of {given.shards:,} shards: {order:.2f} s, once an epoch")
    print(f"extrapolated to {given.shards * given.samples:,} samples, {given.ranks:,} ranks, {lanes:,} rows a step:")
    print(f"  waste {1 - np.mean(fills):.2%}")
    print(f"  imbalance {slowest:.1%}, of a row alone {np.std(work) / np.mean(work):.1%} (standard deviation)")
    print(f"  rows of a process {2 * given.rows * np.mean(held) / 1e6:.1f} MB, order {8 * given.shards / 1e6:.0f} MB")
    print(f"  names {sum(map(len, names[:1000])) / 1000 * given.shards / 1e6:.0f} MB")
    print(f"  state {state / 1e3:.0f} KB")
    print(f"  planning {shard * given.shards / 3600:.1f} core hours, {shard * given.shards / given.ranks:.0f} s a rank")


if __name__ == "__main__":
    main()
