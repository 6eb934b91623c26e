"""A small folder in COCO's layout: drawn images, boxes, and captions that were written for these tests.

Each scene below is one image. A box is drawn as a shape in a colour of its class over smooth noise, so no two
images are nearly the same. The captions say what a person might say of the boxes, not what the drawing looks like.
"""

from __future__ import annotations

import colorsys
import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw

Box = tuple[str, float, float, float, float]
SIZES = ((160, 120), (120, 160), (144, 144))
SCENES: list[tuple[list[Box], tuple[str, ...]]] = [
    ([("dog", 0.1, 0.5, 0.4, 0.9), ("frisbee", 0.45, 0.2, 0.6, 0.3), ("person", 0.65, 0.2, 0.9, 0.95)],
     ("A man throws a frisbee to his dog.", "A dog is running after a frisbee on the grass.",
      "A person and a dog are playing in a park.")),
    ([("cat", 0.3, 0.4, 0.6, 0.7), ("couch", 0.05, 0.35, 0.95, 0.95)],
     ("A cat is sleeping on a couch.", "A grey cat on a large sofa in a living room.", "The cat lies on the couch.")),
    ([("person", 0.1, 0.1, 0.4, 0.9), ("person", 0.5, 0.15, 0.8, 0.9), ("dining table", 0.05, 0.6, 0.95, 0.98),
      ("pizza", 0.4, 0.65, 0.6, 0.8)],
     ("Two people are sitting at a table with a pizza.", "A man and a woman share a pizza in a kitchen.",
      "A pizza on a wooden table between two people.")),
    ([("bicycle", 0.2, 0.4, 0.7, 0.9), ("bench", 0.6, 0.5, 0.98, 0.85)],
     ("A bicycle is leaning against a bench.", "A red bike stands next to a wooden bench.",
      "An old bicycle by a bench in the park.")),
    ([("horse", 0.1, 0.3, 0.5, 0.9), ("person", 0.2, 0.05, 0.4, 0.6)],
     ("A woman is riding a brown horse.", "A person on a horse in a field.", "A rider sits on her horse.")),
    ([("oven", 0.05, 0.4, 0.35, 0.9), ("refrigerator", 0.6, 0.1, 0.9, 0.9), ("sink", 0.36, 0.5, 0.58, 0.6)],
     ("A small kitchen with a white refrigerator and an oven.", "An oven and a sink in a clean kitchen.",
      "A kitchen with a fridge on the right.")),
    ([("bus", 0.1, 0.2, 0.8, 0.8), ("car", 0.82, 0.6, 0.98, 0.8), ("person", 0.02, 0.5, 0.08, 0.8)],
     ("A red bus is driving down the street.", "A bus and a car on a busy road.",
      "A man is waiting for a bus at the side of the street.")),
    ([("sheep", 0.1, 0.5, 0.3, 0.8), ("sheep", 0.4, 0.5, 0.6, 0.8), ("sheep", 0.7, 0.55, 0.9, 0.85)],
     ("Three sheep are grazing in a green field.", "A few sheep stand on the grass.", "Some sheep eating grass.")),
    ([("laptop", 0.3, 0.4, 0.7, 0.8), ("cup", 0.75, 0.5, 0.85, 0.7), ("dining table", 0.02, 0.6, 0.98, 0.98)],
     ("A laptop and a cup of coffee on a table.", "An open laptop on a desk next to a white cup.",
      "A laptop computer sits on a wooden table.")),
    ([("surfboard", 0.3, 0.6, 0.7, 0.75), ("person", 0.4, 0.2, 0.6, 0.7)],
     ("A man is surfing a wave in the ocean.", "A surfer on a white surfboard.", "A person rides a big wave.")),
    ([("teddy bear", 0.2, 0.3, 0.5, 0.8), ("bed", 0.02, 0.4, 0.98, 0.98), ("book", 0.6, 0.5, 0.75, 0.6)],
     ("A teddy bear and a book on a bed.", "A stuffed bear is sitting on the bed.", "A teddy bear next to a book.")),
    ([("elephant", 0.2, 0.2, 0.7, 0.9), ("elephant", 0.7, 0.55, 0.92, 0.9)],
     ("An elephant walks with her baby.", "Two elephants, one large and one small, in the dry grass.",
      "A baby elephant follows a big elephant.")),
    ([("dog", 0.3, 0.4, 0.7, 0.9), ("person", 0.05, 0.1, 0.28, 0.95), ("car", 0.72, 0.5, 0.98, 0.75)],
     ("A woman is walking her dog past a parked car.", "A dog and a woman on the sidewalk.",
      "A person with a black dog on a leash.")),
    ([("chair", 0.05, 0.4, 0.25, 0.9), ("chair", 0.75, 0.4, 0.95, 0.9), ("dining table", 0.25, 0.5, 0.75, 0.9),
      ("vase", 0.45, 0.3, 0.55, 0.5)],
     ("A table with two chairs and a vase of flowers.", "Two wooden chairs at a small table in a kitchen.",
      "A vase stands on a table between two chairs.")),
    ([("airplane", 0.2, 0.3, 0.8, 0.6)],
     ("A large airplane is flying in the blue sky.", "A white jet in the air.", "A plane high above the clouds.")),
    ([("boat", 0.1, 0.5, 0.4, 0.7), ("boat", 0.6, 0.45, 0.9, 0.65), ("bird", 0.45, 0.1, 0.55, 0.2)],
     ("Two boats on a calm lake and a bird in the air.", "A bird flies over two small boats.",
      "Boats are floating on the water.")),
    ([("cat", 0.1, 0.3, 0.4, 0.7), ("dog", 0.5, 0.4, 0.9, 0.9), ("chair", 0.02, 0.6, 0.45, 0.98)],
     ("A cat sits on a chair and a dog lies on the floor.", "A dog is looking at a cat on a chair.",
      "A dog and a cat in a living room.")),
    ([("person", 0.1, 0.2, 0.3, 0.9), ("person", 0.4, 0.2, 0.6, 0.9), ("person", 0.7, 0.2, 0.9, 0.9),
      ("sports ball", 0.32, 0.8, 0.38, 0.88)],
     ("Three men are playing soccer.", "A group of people with a ball on a field.", "Men running after a ball.")),
    ([("train", 0.1, 0.3, 0.9, 0.8), ("person", 0.02, 0.5, 0.08, 0.85)],
     ("A yellow train is arriving at the station.", "A man is waiting for a train.", "A long train on the tracks.")),
    ([("dog", 0.2, 0.3, 0.5, 0.8), ("dog", 0.55, 0.35, 0.85, 0.85), ("couch", 0.02, 0.4, 0.98, 0.98)],
     ("Two dogs are sitting on a couch.", "Two brown dogs on a sofa.", "A pair of dogs resting on the couch.")),
]  # fmt: skip
SPLITS = {"train2017": SCENES[:8], "val2017": SCENES[8:]}


def save_drawn_coco(folder: Path) -> Path:
    """Write `train2017/`, `val2017/` and `annotations/`; return the folder."""
    (folder / "annotations").mkdir(parents=True)
    labels = sorted({box[0] for boxes, _ in SCENES for box in boxes})
    for number, (split, scenes) in enumerate(SPLITS.items()):
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        captions: list[dict[str, Any]] = []
        instances: list[dict[str, Any]] = []
        for k, (boxes, texts) in enumerate(scenes, 1):
            image_id = 1000 * number + 7 * k
            width, height = SIZES[k % len(SIZES)]
            name = f"{image_id:012d}.jpg"
            draw_scene(boxes, width, height, seed=image_id).save(folder / split / name, quality=92)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for text in texts:
                captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": text})
            for label, left, top, right, bottom in boxes:
                box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
                instances.append(
                    {
                        "id": len(instances) + 1,
                        "image_id": image_id,
                        "category_id": labels.index(label) + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": labels.index(label) + 1, "name": label} for label in labels]
        for name, tree in {
            "captions": {"images": images, "annotations": captions},
            "instances": {"images": images, "annotations": instances, "categories": categories},
        }.items():
            (folder / "annotations" / f"{name}_{split}.json").write_text(json.dumps(tree))
    return folder


def draw_scene(boxes: list[Box], width: int, height: int, seed: int) -> Image.Image:
    """Smooth noise, different in each image, with one shape per box in its class's colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for label, left, top, right, bottom in boxes:
        number = crc32(label.encode())
        colour = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(number % 97 / 97, 0.8, 0.9))
        draw = (pen.ellipse, pen.rectangle)[number % 2]
        draw((left * width, top * height, right * width, bottom * height), fill=colour, outline=(20, 20, 20))
    return image
