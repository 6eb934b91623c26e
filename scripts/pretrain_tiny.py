"""Train the tiny backbones again, in several calls that continue where the last one stopped.

python scripts/pretrain_tiny.py vision   --work DIR --minutes 45            the tower, from images and captions
python scripts/pretrain_tiny.py language --work DIR --minutes 60            the language model, from text
python scripts/pretrain_tiny.py vision   --work DIR --minutes 25 --decay    the last call: the learning rate falls to 0
python scripts/pretrain_tiny.py language --work DIR --minutes 60 --shipped  continue from the shipped language model
python scripts/pretrain_tiny.py export   --work DIR                         into the package, if a score improved
"""

from __future__ import annotations

import argparse
import json
import shutil
from importlib import resources
from pathlib import Path

import tiny_language
import tiny_vision
import torch

BACKBONES = Path(str(resources.files("vistune.scenes"))) / "backbones"
GATES = {"vision": "shape", "language": "folded_all"}


def export(work: Path) -> None:
    """Write each backbone with a better gate score than the shipped one; `scores.json` has its scores."""
    makers = {"vision": tiny_vision.export, "language": tiny_language.export}
    for part, make in makers.items():
        if not (work / f"{part}.pt").exists():
            continue
        draft = work / f"export-{part}"
        shutil.rmtree(draft, ignore_errors=True)
        scores = make(work, draft)
        (draft / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        shipped = BACKBONES / part / "scores.json"
        before = json.loads(shipped.read_text())[GATES[part]] if shipped.exists() else -1.0
        verdict = "shipped" if scores[GATES[part]] > before else "kept the old one"
        print(f"{part}: {GATES[part]} {scores[GATES[part]]:.3f}, before {before:.3f}: {verdict}", scores)
        if scores[GATES[part]] > before:
            BACKBONES.mkdir(exist_ok=True)
            for path in draft.iterdir():
                (BACKBONES / part).mkdir(exist_ok=True)
                shutil.copy(path, BACKBONES / part / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vision", "language", "export"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the state between calls")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", action="store_true", help="let the learning rate fall to 0 in this call")
    parser.add_argument("--shipped", action="store_true", help="language: start from the shipped model")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.what == "export":
        export(arguments.work)
        return
    if arguments.shipped and not (arguments.work / "language").exists():
        shutil.copytree(BACKBONES / "language", arguments.work / "language")
    train = tiny_vision.train if arguments.what == "vision" else tiny_language.train
    train(arguments.work, minutes=arguments.minutes, rate=arguments.rate, decay=arguments.decay)


if __name__ == "__main__":
    main()
