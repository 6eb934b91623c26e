"""Training speed and memory of vistune and of its peers at their best, over the same weights, data and batch.

python benchmarks/train.py [--pair small|tiny|FOLDER] [--stages stage1,lora,full] [--rounds 3] [--steps 6]
    [--who ours:fp32,compiled:fp32,...] [--trl FOLDER] [--tokens-per-row 2048] [--shared ../shared] [--json FILE]

Pairs are described in pairs.py; FOLDER is one that shared/real/make_backbones.py wrote (DINOv2-S and SmolLM2-135M).
Both sides have the same number of image tokens, an `mlp2x_gelu` projector and no norm between tower and projector,
because transformers' LLaVA has none. First, the losses of one batch are compared at equal masks. 8 samples per step.

ours, compiled        the trainer of `vistune train` on rows of --tokens-per-row, plain and with compiled layers
kept, kept-compiled   the same with the tower's features on disk, as in every epoch but the first
plain                 a padded batch of 8 over transformers' LlavaForConditionalGeneration
single, sorted2, sorted4, and each with -compiled: the same loop at its best; see peers.py
trl                   TRL's SFTTrainer as it comes (shared/bench/peer_trl.py), a padded batch of 8
trl-single, trl-pairs TRL at its best, one or two samples at a time; see peer_trl.py

TRL needs `--trl`, a folder that has it. Each measurement is a process of its own; the rounds are interleaved; the
median step counts. Peak is the process's largest resident memory (VmHWM). MFU: FLOPs that the step needs
(planner/work.py) per second, over the rate of a large product in that precision, measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import Results, add_json, resident, run_child
from ours import SAMPLES, Setup, recipe_of
from pairs import Pair, prepare

OURS = ("ours", "compiled")  # `kept` needs an earlier epoch, so the ratios do not count it
KEPT = ("kept", "kept-compiled")
PLAIN = ("plain", "single", "sorted4", "sorted2", "plain-compiled", "single-compiled", "sorted4-compiled",
         "sorted2-compiled")  # fmt: skip
TRL_AT_ONCE = {"trl-single": 1, "trl-pairs": 2}
WHO = ("ours:fp32,compiled:fp32,kept-compiled:fp32,compiled:bf16,plain:fp32,plain:bf16,single:fp32,single:bf16,"
       "sorted2:fp32,sorted2:bf16,single-compiled:fp32,single-compiled:bf16,trl:bf16,trl-single:fp32,"
       "trl-single:bf16,trl-pairs:bf16")  # fmt: skip
EXTRA_WARM = 2  # steps more that a compiled run warms up


def measure(work: Path, who: str, setup: Setup) -> dict[str, Any]:
    """Measure one implementation in this process; the first steps warm up."""
    import torch

    from vistune.planner.work import matmul_peak

    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    if who in PLAIN:
        import peers

        steps = peers.train(work, who, setup)
    else:
        import ours

        matmul_peak("cpu", dtype)
        steps = ours.train(work, setup)
    result = {"samples_per_s": SAMPLES / steps.median, "peak_mb": resident() // 2**20, "mfu": None}
    if steps.flops_per_second is not None:  # the faster of both rates: other work may have held a core for a moment
        result["mfu"] = steps.flops_per_second / matmul_peak("cpu", dtype)
    return result


def measure_in_child(given: argparse.Namespace, work: Path, who: str, stage: str, precision: str) -> dict[str, Any]:
    """Measure one implementation in a process of its own."""
    environment: dict[str, str] = {}
    steps = str(given.steps + (EXTRA_WARM if who.endswith("compiled") else 0))
    here = Path(__file__).parent
    if who == "trl":
        script = given.shared / "bench" / "peer_trl.py"
        named = {"stage1": "1"}.get(stage, stage)
        command = [str(script), str(work), str(work / "data.json"), str(work / "images"), named,
                   *(["--fp32"] if precision == "fp32" else [])]  # fmt: skip
        import torch

        environment = {"T": str(torch.get_num_threads())}
    elif who in TRL_AT_ONCE:
        command = [str(here / "peer_trl.py"), str(work), stage, precision, "--steps", steps,
                   "--at-once", str(TRL_AT_ONCE[who])]  # fmt: skip
    else:
        sizes = ["--steps", steps, "--tokens-per-row", str(given.tokens_per_row)]
        command = [str(here / "train.py"), *sizes, "--one", str(work), who, stage, precision]
    if who.startswith("trl"):
        found = [str(given.trl.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(found)
    done = run_child([sys.executable, *command], environment)
    if done.code:
        return {"failed": done.errors.strip().splitlines()[-1][-300:]}
    last = next(line for line in reversed(done.out.splitlines()) if line.startswith(("RESULT", "{")))
    if who == "trl":
        values = dict(part.split("=") for part in last.split() if "=" in part)
        return {"samples_per_s": float(values["samples/s"]), "peak_mb": done.peak_bytes // 2**20, "mfu": None}
    result: dict[str, Any] = json.loads(last.removeprefix("RESULT "))
    if who in TRL_AT_ONCE:
        median = statistics.median(result["seconds"][result["warm"] :])
        return {"samples_per_s": SAMPLES / median, "peak_mb": result["peak_bytes"] // 2**20, "mfu": None}
    return result


def losses(work: Path) -> tuple[float, float]:
    """Return the mean loss of one step's samples, ours and transformers', over the same ids, labels and pixels."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from vistune.data import Loader
    from vistune.data.stages import plan_stages
    from vistune.model import next_token_loss
    from vistune.progress import no_progress
    from vistune.training import Run

    recipe = recipe_of(work, Setup("full", "fp32", 1, tokens_per_row=16384))
    run = Run(recipe, work / "unused", progress=no_progress)
    planned = plan_stages(recipe, run.processor, no_progress)[0][0]
    model = run.first_model(None)
    (batch,) = Loader(planned.samples, planned.processor, planned.plan).load(0)
    peer = LlavaForConditionalGeneration.from_pretrained(work / "llava-hf").eval()
    theirs = peer.model.multi_modal_projector
    model.projector.load_state_dict(
        {f"{index}.{name}": tensor for index, layer in ((0, theirs.linear_1), (2, theirs.linear_2))
         for name, tensor in layer.state_dict().items()}
    )  # fmt: skip
    words = model.head.weight.shape[0]  # the peer's head has more rows than its tokenizer has tokens
    peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight[:words])
    peer.config.text_config.vocab_size = words
    image_token, total = Pair.read(work).image_token, 0.0
    with torch.no_grad():
        mine = next_token_loss(model.eval()(batch), model.head, batch.labels, batch.starts)
        normal = (batch.images.float() - model.vision.mean) / model.vision.std
        for number, (begin, end) in enumerate(zip(batch.starts[:-1], batch.starts[1:], strict=True)):
            ids = batch.input_ids[begin:end].masked_fill(batch.input_ids[begin:end] < 0, image_token)[None]
            labels = batch.labels[begin:end][None]
            out = peer(input_ids=ids, pixel_values=normal[number][None], labels=labels)
            total += float(out.loss) * int((labels[:, 1:] != -100).sum())
    return float(mine.sum) / mine.count, total / mine.count


def compare(given: argparse.Namespace, work: Path, stage: str, results: Results) -> None:
    """Measure all implementations of a stage, and print each and the ratios to the best of each family."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(given.rounds):
        for who, precision in (pair.split(":") for pair in given.who.split(",")):
            if who.startswith("trl") and given.trl is None:
                continue
            result = measure_in_child(given, work, who, stage, precision)
            results.add(f"  ({stage}, round {number + 1}: {who} {precision}: {result})", stage=stage, round=number,
                        who=who, precision=precision, **result)  # fmt: skip
            if "failed" not in result:
                runs.setdefault((who, precision), []).append(result)
    print(f"\n{stage} (load {os.getloadavg()[0]:.1f})")
    medians = {}
    for (who, precision), listed in runs.items():
        speeds = [run["samples_per_s"] for run in listed]
        middle, peak = statistics.median(speeds), max(run["peak_mb"] for run in listed)
        medians[who, precision] = (middle, peak)
        used = [run["mfu"] for run in listed if run["mfu"] is not None]
        share = f", MFU {statistics.median(used):.0%}" if used else ""
        results.add(f"  {who:15} {precision}: {middle:7.3f} samples/s ({min(speeds):.3f}-{max(speeds):.3f}), "
                    f"peak {peak:,} MB{share}", stage=stage, who=who, precision=precision, median=middle,
                    peak_mb=peak)  # fmt: skip
    mine = best(medians, OURS)
    for name, family in (("the best plain loop", PLAIN), ("TRL at its best", ("trl", *TRL_AT_ONCE)),
                         ("TRL as it comes", ("trl",))):  # fmt: skip
        theirs = best(medians, family)
        if mine is None or theirs is None:
            continue
        (our_speed, our_peak), (speed, peak) = medians[mine], medians[theirs]
        results.add(f"  ours ({' '.join(mine)}) against {name} ({' '.join(theirs)}): {our_speed / speed:.2f} x the "
                    f"speed, {our_peak / peak:.2f} of the memory", stage=stage, against=name, ours=mine, peer=theirs,
                    speed=our_speed / speed, memory=our_peak / peak)  # fmt: skip


def best(medians: dict[tuple[str, str], tuple[float, int]], family: Sequence[str]) -> tuple[str, str] | None:
    """Return the fastest of a family that was measured."""
    return max((key for key in medians if key[0] in family), key=lambda key: medians[key][0], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--pair", default="small", help="small, tiny, or a folder of real backbones")
    parser.add_argument("--stages", default="stage1,lora,full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--trl", type=Path, help="folder that has TRL and datasets")
    parser.add_argument("--who", default=WHO)
    parser.add_argument("--tokens-per-row", type=int, default=2048)
    parser.add_argument("--one", nargs=4, metavar=("WORK", "WHO", "STAGE", "PRECISION"), help=argparse.SUPPRESS)
    parser.add_argument("--losses", type=Path, metavar="WORK", help=argparse.SUPPRESS)
    add_json(parser)
    given = parser.parse_args()
    if given.one:
        work, who, stage, precision = given.one
        setup = Setup(stage, precision, given.steps, given.tokens_per_row, compiled=who.endswith("compiled"),
                      cached=who.startswith("kept"))  # fmt: skip
        print(json.dumps(measure(Path(work), who, setup)))
        return
    if given.losses:
        print(json.dumps(losses(given.losses)))
        return
    unknown = {pair.partition(":")[0] for pair in given.who.split(",")} - {*OURS, *KEPT, *PLAIN, "trl", *TRL_AT_ONCE}
    if given.trl is not None and "trl:" in given.who and not (given.shared / "bench" / "peer_trl.py").is_file():
        parser.error(f"--shared {given.shared}: has no bench/peer_trl.py, which runs TRL as it comes")
    if unknown:
        parser.error(f"--who: unknown {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # shared/bench/peer_trl.py always runs 8 steps; a compiled run needs two more than the others.
        pair = prepare(work, given.shared, SAMPLES * max(given.steps + EXTRA_WARM, 8), given.pair)
        results = Results.begin(given.json)
        done = run_child([sys.executable, __file__, "--losses", str(work)])
        if done.code:
            raise SystemExit(done.errors[-2000:])
        mine, theirs = json.loads(done.out.splitlines()[-1])
        results.add(f"pair {pair.name}: loss of one batch at equal masks: ours {mine:.6f}, transformers {theirs:.6f}",
                    pair=pair.name, loss=mine, peer_loss=theirs)  # fmt: skip
        for stage in given.stages.split(","):
            compare(given, work, stage, results)


if __name__ == "__main__":
    main()
