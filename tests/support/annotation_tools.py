"""The same dog in the files of several annotation tools."""

from __future__ import annotations

import json
from typing import Any

from source_folders import PIXELS

X0, Y0, X1, Y1 = PIXELS
VOC = f"""<annotation>
	<folder>images</folder><filename>NAME</filename><path>C:\\Users\\kim\\NAME</path>
	<source><database>Unknown</database></source>
	<size><width>200</width><height>100</height><depth>3</depth></size><segmented>0</segmented>
	<object><name>dog</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
		<bndbox><xmin>{X0}</xmin><ymin>{Y0}</ymin><xmax>{X1}</xmax><ymax>{Y1}</ymax></bndbox></object>
</annotation>"""
CVAT = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>1</id></task></meta>
  <image id="0" name="NAME" width="200" height="100">
    <box label="dog" source="manual" occluded="0" xtl="{X0}.00" ytl="{Y0}.00" xbr="{X1}.00" ybr="{Y1}.00" z_order="0">
      <attribute name="color">brown</attribute><attribute name="muddy">false</attribute></box>
  </image></annotations>"""
RECTANGLE = {"x": 10, "y": 10, "width": 40, "height": 50, "rotation": 0, "rectanglelabels": ["dog"]}


def labelme(name: str) -> dict[str, Any]:
    shape = {"label": "dog", "points": [[X1, Y0], [X0, Y1]], "group_id": None, "description": "",
             "shape_type": "rectangle", "flags": {}}  # fmt: skip
    return {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": name, "imageData": "aGk=",
            "imageHeight": 100, "imageWidth": 200}  # fmt: skip


def via(name: str) -> dict[str, Any]:
    shape = {"name": "rect", "x": X0, "y": Y0, "width": X1 - X0, "height": Y1 - Y0}
    region = {"shape_attributes": shape, "region_attributes": {"label": "dog", "color": "brown"}}
    image = {"filename": name, "size": 1234, "regions": [region], "file_attributes": {"caption": "A dog."}}
    return {f"{name}1234": image}


def via_csv(name: str) -> str:
    [image] = via(name).values()
    cells = [json.dumps(cell) for cell in (image["file_attributes"], *image["regions"][0].values())]
    about, shape, attributes = ('"' + cell.replace('"', '""') + '"' for cell in cells)
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    return f"{header}\n{name},1234,{about},1,0,{shape},{attributes}\n"


def label_studio(name: str) -> list[dict[str, Any]]:
    result = {"id": "x", "type": "rectanglelabels", "value": RECTANGLE, "original_width": 200, "original_height": 100,
              "image_rotation": 0, "from_name": "label", "to_name": "image", "origin": "manual"}  # fmt: skip
    written = {"type": "textarea", "value": {"text": ["A dog."]}, "from_name": "caption", "to_name": "image"}
    annotation = {"id": 1, "completed_by": 1, "result": [result, written], "was_cancelled": False, "lead_time": 3.2}
    return [{"id": 1, "annotations": [annotation], "file_upload": name, "drafts": [], "predictions": [],
             "data": {"image": f"/data/upload/1/1a2b3c4d-{name}"}, "meta": {}, "project": 1}]  # fmt: skip


def label_studio_min(name: str) -> list[dict[str, Any]]:
    rectangle = {**RECTANGLE, "original_width": 200, "original_height": 100}
    return [{"image": f"/data/local-files/?d=images/{name}", "id": 1, "label": [rectangle], "caption": "A dog.",
             "annotator": 1, "annotation_id": 1, "created_at": "x", "updated_at": "x", "lead_time": 1.0}]  # fmt: skip


def datumaro(name: str) -> dict[str, Any]:
    box = {"id": 0, "type": "bbox", "attributes": {"occluded": False}, "group": 0, "label_id": 1,
           "bbox": [X0, Y0, X1 - X0, Y1 - Y0], "z_order": 0}  # fmt: skip
    said = {"id": 1, "type": "caption", "attributes": {}, "group": 0, "caption": "A dog."}
    item = {"id": name.partition(".")[0], "annotations": [box, said], "attr": {}, "image": {"path": name}}
    labels = [{"name": name, "parent": "", "attributes": []} for name in ("cat", "dog")]
    return {"info": {}, "categories": {"label": {"labels": labels, "attributes": []}}, "items": [item]}
