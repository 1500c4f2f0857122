"""A fleet without pixels: 10 M images on 256 GPUs with preemptions, driven by measured constants.

python -m tests.bench.simulate_fleet --images 10000000 --gpus 256

An event simulation of what `flows.fleet` does: the parent deals shards to lanes, one lane occupies a node (8 GPUs),
ranks pull items from their node's counter, a preempted node loses what is in flight and what the ledger does not hold
yet, and its unfinished shards are dispatched again to whichever node is free. It counts what the real thing would ask
of S3 and of Prefect. It does not simulate: contention in S3 or the network, slow disks, compile caches, or a Prefect
server under load.
"""

import argparse
import heapq
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Constants:
    """Where the numbers come from: measured on one H100 (8 steps, 3 images of 1024^2, compiled bf16: 0.569 s a step,
    text encoder 0.136 s, VAE 0.148 + 0.077 s) or set by the code's defaults; `node_start_s` and the preemption rate
    are assumptions."""

    region_s: float = 8 * 0.569 + 0.136 + 0.148 + 0.077
    regions_per_image: float = 1.3
    region_sigma: float = 0.25  # log-normal spread of the cost of a region (crop sizes, references)
    load_s: float = 180.0  # 57 GB of weights from a local disk at 0.5 GB/s, compile, warm-up
    node_start_s: float = 240.0  # a new node: scheduling, image, model to disk
    preemptions_per_node_day: float = 2.0
    flush_items: int = 256
    flush_s: float = 20.0
    in_flight_items: int = 32  # per GPU
    shard_items: int = 1024
    gpus_per_node: int = 8
    poll_s: float = 3.0
    ledger_every_s: float = 30.0
    list_page_s: float = 0.1  # one page of 1,000 keys; an assumption


@dataclass(frozen=True, slots=True)
class Result:
    """What came out. `efficiency` is ideal GPU time over spent GPU time until the last item."""

    images: int
    gpus: int
    lanes: int
    makespan_h: float
    ideal_h: float
    efficiency: float
    preemptions: int
    redone_images: int
    redone_share: float
    child_runs: int
    s3_get: int
    s3_put: int
    s3_list: int
    s3_delete: int
    prefect_calls: int
    prefect_calls_per_s: float


def simulate(images: int, gpus: int, lanes: int, c: Constants, seed: int = 0) -> Result:
    """One run, from first dispatch to last outcome."""
    rng = np.random.default_rng(seed)
    shards = -(-images // c.shard_items)
    per_shard = np.full(shards, c.shard_items, np.int64)
    per_shard[-1] = images - c.shard_items * (shards - 1)
    regions = rng.poisson(per_shard * (c.regions_per_image - 1)) + per_shard
    # A shard's cost is a sum of many log-normal regions: normal, by the central limit theorem.
    spread = np.sqrt(np.exp(c.region_sigma**2) - 1)
    shard_s = regions * c.region_s * (1 + spread * rng.standard_normal(shards) / np.sqrt(regions))
    nodes = gpus // c.gpus_per_node
    waiting = [list(hand) for hand in np.array_split(np.arange(shards), min(lanes, shards))]
    left = per_shard.astype(np.float64)
    free = [(0.0, node) for node in range(nodes)]
    heapq.heapify(free)
    end, busy_nodes_s, preemptions, redone, dispatched = 0.0, 0.0, 0, 0.0, len(waiting)
    while waiting:
        hand = waiting.pop(0)
        now, node = heapq.heappop(free)
        work_s = float((shard_s[hand] * left[hand] / per_shard[hand]).sum()) / c.gpus_per_node
        life_s = rng.exponential(86_400 / c.preemptions_per_node_day) if c.preemptions_per_node_day else np.inf
        if life_s >= c.load_s + work_s:
            end = max(end, now + c.load_s + work_s)
            busy_nodes_s += c.load_s + work_s
            heapq.heappush(free, (now + c.load_s + work_s, node))
            continue
        preemptions += 1
        dispatched += 1
        busy_nodes_s += life_s
        redone += _cut(hand, left, per_shard, shard_s, max(0.0, life_s - c.load_s), c, rng)
        hand = [s for s in hand if left[s] > 0]
        waiting.append(hand)
        heapq.heappush(free, (now + life_s + c.node_start_s, node))
    ideal_s = float(shard_s.sum()) / gpus
    return _result(images, gpus, lanes, end, ideal_s, preemptions, redone, dispatched, busy_nodes_s, c)


def _cut(
    hand: list[int],
    left: np.ndarray,
    per_shard: np.ndarray,
    shard_s: np.ndarray,
    worked_s: float,
    c: Constants,
    rng: np.random.Generator,
) -> float:
    """Take off what a node finished before it went; returns the images whose work is lost.

    With a notice (SIGTERM) what is in flight is finished or dropped and the ledger is flushed; half of the preemptions
    come without one, and lose in-flight items and, on average, half a ledger part per GPU as well.
    """
    item_s = float((shard_s[hand] / per_shard[hand]).mean()) / c.gpus_per_node
    finished = worked_s / item_s
    unflushed = min(c.flush_items, c.flush_s / (item_s * c.gpus_per_node)) / 2
    lost = c.gpus_per_node * (unflushed + 1.0) if rng.random() < 0.5 else 0.0
    kept = max(0.0, finished - lost)
    for shard in hand:
        taken = min(left[shard], kept)
        left[shard] -= taken
        kept -= taken
    return min(finished, lost)


def _result(
    images: int,
    gpus: int,
    lanes: int,
    end_s: float,
    ideal_s: float,
    preemptions: int,
    redone: float,
    dispatched: int,
    busy_nodes_s: float,
    c: Constants,
) -> Result:
    rate_per_gpu = images / end_s / gpus
    parts = images / min(c.flush_items, max(1.0, rate_per_gpu * c.flush_s))
    plan_reads = dispatched * (2 + c.gpus_per_node + 2)  # digests, node, every rank, the order
    ledger_reads = 3 * parts  # by the node that wrote it, by the parent, by the compaction
    look_s = max(c.ledger_every_s, 20 * parts / 2 / 1000 * c.list_page_s)
    lists = (end_s / look_s + dispatched) * parts / 2 / 1000
    heartbeats = (gpus / c.gpus_per_node) * end_s / 30
    calls = end_s / c.poll_s + dispatched * 25 + heartbeats + end_s / 10
    return Result(
        images=images,
        gpus=gpus,
        lanes=lanes,
        makespan_h=round(end_s / 3600, 2),
        ideal_h=round(ideal_s / 3600, 2),
        efficiency=round(ideal_s / end_s, 4),
        preemptions=preemptions,
        redone_images=round(redone),
        redone_share=round(redone / images, 6),
        child_runs=dispatched,
        s3_get=round(images + redone + plan_reads + ledger_reads),
        s3_put=round(images + redone + parts + dispatched),
        s3_list=round(lists),
        s3_delete=round(parts),
        prefect_calls=round(calls),
        prefect_calls_per_s=round(calls / end_s, 2),
    )


def table(images: int, gpus: int, flush_s: float) -> list[dict[str, Any]]:
    """Lanes per node and preemption rate, varied."""
    nodes, rows = gpus // Constants().gpus_per_node, []
    for rate in (0.0, 2.0, 24.0):
        for factor in (1, 4, 16):
            c = Constants(preemptions_per_node_day=rate, flush_s=flush_s)
            result = asdict(simulate(images, gpus, factor * nodes, c))
            rows.append({"preemptions_per_node_day": rate, "lanes_per_node": factor, **result, "lanes": factor * nodes})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--gpus", type=int, default=256)
    parser.add_argument("--flush-s", type=float, default=300.0, help="worker.flush_s of the fleet")
    arguments = parser.parse_args()
    for row in table(arguments.images, arguments.gpus, arguments.flush_s):
        print(json.dumps(row))
