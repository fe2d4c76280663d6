"""Tiny data sets in the official layout of every format that `dataset=auto` recognises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "val", "test")
# Six images, so that separators and classes recur as in a real set.
LABELS = {
    "a1.jpg": ["cat", "dog"],
    "a2.jpg": ["dog"],
    "a3.jpg": ["cat", "sun"],
    "a4.jpg": ["sun"],
    "a5.jpg": ["dog", "sun"],
    "a6.jpg": ["cat"],
    "a7.jpg": [],
    "a8.jpg": ["cat", "dog", "sun"],
}
CLASSES = ["cat", "dog", "sun"]
TRAIN, VAL, TEST = list(LABELS)[:4], list(LABELS)[4:6], list(LABELS)[6:]
OF_SPLIT = {"train": TRAIN, "val": VAL, "test": TEST}


class Case(NamedTuple):
    """A data set and what is expected of it."""

    path: Path
    """to give to `dataset=auto`"""
    group: str
    expected: dict[str, list[str]]
    """all images, by name, with their labels"""
    held_out: bool
    """whether val is a share of train"""


CASES: dict[str, Callable[[Path], Case]] = {}


def case(function: Callable[[Path], Case]) -> Callable[[Path], Case]:
    CASES[function.__name__] = function
    return function


def touch(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def split_of(image: str) -> str:
    return next(split for split, images in OF_SPLIT.items() if image in images)


def listed(images: list[str], separator: str = ";") -> list[tuple[str, str]]:
    return [(image, separator.join(LABELS[image])) for image in images]


def coco(images: list[str], *, ids: Callable[[int], object] = int, boxes: bool = True) -> str:
    """COCO's json, with gaps in the ids and, if asked for, without boxes."""
    annotations = [
        {"id": 10 * i + k, "image_id": ids(7 * i), "category_id": 3 * CLASSES.index(label) + 1}
        for i, image in enumerate(images)
        for k, label in enumerate(LABELS[image])
    ]
    if boxes:
        annotations = [{**one, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0} for one in annotations]
    return json.dumps(
        {
            "info": {},
            "images": [{"id": ids(7 * i), "file_name": image} for i, image in enumerate(images)],
            "annotations": annotations,
            "categories": [{"id": 3 * k + 1, "name": name} for k, name in enumerate(CLASSES)],
        }
    )


def voc_xml(image: str, *, filename: str | None = None) -> str:
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>1</xmin></bndbox></object>" for label in LABELS[image]
    )
    return f"<annotation><folder>x</folder><filename>{filename or image}</filename>{objects}</annotation>"


def boxes(image: str) -> str:
    return "".join(f"{CLASSES.index(label)} 0.5 0.5 0.1 0.2\n" for label in LABELS[image])


def one_hot(images: list[str], yes: str = "1", no: str = "0", sep: str = ",") -> list[str]:
    return [sep.join([image, *(yes if name in LABELS[image] else no for name in CLASSES)]) for image in images]


# -- csv -------------------------------------------------------------------------------------------------------------


@case
def csv_labels(folder: Path) -> Case:
    touch(folder, *LABELS)
    rows = [f"{image},{labels},{split_of(image)}\n" for image, labels in listed(list(LABELS))]
    return Case(write(folder / "labels.csv", "image,labels,split\n" + "".join(rows)), "csv", LABELS, False)


@case
def csv_one_hot_of_kaggle(folder: Path) -> Case:
    touch(folder / "train_images", *LABELS)
    rows = [row.replace(".jpg", "") for row in one_hot(list(LABELS))]
    write(folder / "train.csv", "\n".join(["id,cat,dog,sun", *rows]) + "\n")
    return Case(folder / "train.csv", "csv", LABELS, True)


@case
def csv_of_roboflow_per_split(folder: Path) -> Case:
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        touch(folder / name, *OF_SPLIT[split])
        rows = [row.replace(",", ", ") for row in one_hot(OF_SPLIT[split])]
        write(folder / name / "_classes.csv", "\n".join(["filename, cat, dog, sun", *rows]) + "\n")
    write(folder / "README.roboflow.txt", "Provided by a Roboflow user\n")
    return Case(folder, "csv", LABELS, False)


@case
def csv_lists(folder: Path) -> Case:
    touch(folder, *LABELS)
    rows = [f'{image}\t"{LABELS[image]}"' for image in LABELS]
    return Case(write(folder / "data.tsv", "\n".join(["path\ttags", *rows]) + "\n"), "csv", LABELS, True)


@case
def csv_of_chestxray14(folder: Path) -> Case:
    touch(folder / "images", *LABELS)
    rows = [f"{image},{labels or 'No Finding'},0,1" for image, labels in listed(list(LABELS), "|")]
    text = "\n".join(["Image Index,Finding Labels,Follow-up #,Patient ID", *rows]) + "\n"
    return Case(write(folder / "Data_Entry_2017.csv", text), "csv", LABELS, True)


@case
def csv_of_chestxray14_in_several_folders(folder: Path) -> Case:
    path = csv_of_chestxray14(folder).path
    (folder / "images").rename(folder / "images_001")
    for number, image in enumerate(list(LABELS)):
        place = folder / f"images_{number % 3 + 1:03d}" / "images"
        place.mkdir(parents=True, exist_ok=True)
        (folder / "images_001" / image).rename(place / image)
    return Case(path, "csv", LABELS, True)


@case
def csv_of_chexpert(folder: Path) -> Case:
    root, expected = folder / "CheXpert-v1.0-small", {}
    for split, name in (("train", "train"), ("val", "valid")):
        rows = []
        for image in OF_SPLIT[split]:
            path = f"CheXpert-v1.0-small/{name}/patient{image[1]}/study1/view_{image}"
            touch(folder, path)
            cells = ["1.0" if label in LABELS[image] else "" for label in CLASSES]
            rows.append(",".join([path, "Female", "68", "Frontal", "AP", *cells]))
            expected[f"view_{image}"] = LABELS[image]
        text = "\n".join(["Path,Sex,Age,Frontal/Lateral,AP/PA,cat,dog,sun", *rows]) + "\n"
        write(root / f"{name}.csv", text)
    return Case(root, "csv", expected, False)


@case
def csv_of_planet(folder: Path) -> Case:
    given = {f"train_{k}": labels for k, labels in enumerate([own for own in LABELS.values() if own] * 2)}
    touch(folder / "train-jpg", *(f"{image}.jpg" for image in given))
    rows = [f"{image},{' '.join(labels)}" for image, labels in given.items()]
    path = write(folder / "train_v2.csv", "\n".join(["image_name,tags", *rows]) + "\n")
    return Case(path, "csv", {f"{image}.jpg": labels for image, labels in given.items()}, True)


@case
def csv_of_label_studio(folder: Path) -> Case:
    touch(folder, *LABELS)

    def cell(labels: list[str]) -> str:
        text = labels[0] if len(labels) == 1 else json.dumps({"choices": labels}) if labels else ""
        return '"' + text.replace('"', '""') + '"'

    rows = [f'"/data/upload/3/0123abcd-{image}",{k},{cell(LABELS[image])},1,{k}' for k, image in enumerate(LABELS)]
    text = "\n".join(["image,id,choice,annotator,annotation_id", *rows]) + "\n"
    return Case(write(folder / "project-3.csv", text), "csv", LABELS, True)


@case
def csv_metadata_of_an_image_folder(folder: Path) -> Case:
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        touch(folder / name, *OF_SPLIT[split])
        rows = [f"{image},{labels}" for image, labels in listed(OF_SPLIT[split])]
        write(folder / name / "metadata.csv", "\n".join(["file_name,labels", *rows]) + "\n")
    return Case(folder, "csv", LABELS, False)


@case
def csv_files_of_splits(folder: Path) -> Case:
    for split, images in OF_SPLIT.items():
        touch(folder / "images", *images)
        rows = [f"images/{image},{labels}" for image, labels in listed(images)]
        write(folder / f"{split}.csv", "\n".join(["image,labels", *rows]) + "\n")
    return Case(folder, "csv", LABELS, False)


# -- json ------------------------------------------------------------------------------------------------------------


@case
def jsonl_metadata_of_an_image_folder(folder: Path) -> Case:
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        touch(folder / name, *OF_SPLIT[split])
        lines = [json.dumps({"file_name": image, "labels": LABELS[image]}) for image in OF_SPLIT[split]]
        write(folder / name / "metadata.jsonl", "\n".join(lines) + "\n")
    return Case(folder, "json", LABELS, False)


@case
def json_records(folder: Path) -> Case:
    touch(folder, *LABELS)
    records = [{"image": image, "labels": labels, "split": split_of(image)} for image, labels in LABELS.items()]
    return Case(write(folder / "metadata.json", json.dumps(records)), "json", LABELS, False)


@case
def json_map(folder: Path) -> Case:
    touch(folder / "images", *LABELS)
    return Case(write(folder / "labels.json", json.dumps(LABELS)), "json", LABELS, True)


@case
def json_of_label_studio(folder: Path) -> Case:
    touch(folder / "photos", *LABELS)
    tasks = [
        {
            "id": k,
            "data": {"image": f"/data/local-files/?d=photos/{image}"},
            "annotations": [
                {
                    "was_cancelled": False,
                    "ground_truth": False,
                    "result": [
                        {
                            "value": {"choices": labels},
                            "from_name": "scene",
                            "to_name": "image",
                            "type": "choices",
                            "origin": "manual",
                        }
                    ]
                    if labels
                    else [],
                }
            ],
            "predictions": [],
        }
        for k, (image, labels) in enumerate(LABELS.items())
    ]
    tasks.append({"id": 99, "data": {"image": "/data/local-files/?d=photos/later.jpg"}, "annotations": []})
    return Case(write(folder / "project.json", json.dumps(tasks)), "json", LABELS, True)


@case
def json_min_of_label_studio(folder: Path) -> Case:
    touch(folder, *LABELS)
    records = []
    for k, (image, labels) in enumerate(LABELS.items()):
        record: dict[str, object] = {"image": f"/data/upload/3/0123abcd-{image}", "id": k, "annotator": 1}
        if labels:
            record["choice"] = labels[0] if len(labels) == 1 else {"choices": labels}
        records.append(record)
    return Case(write(folder / "min.json", json.dumps(records)), "json", LABELS, True)


@case
def json_labels_of_fiftyone(folder: Path) -> Case:
    touch(folder / "data", *LABELS)
    labels = {image.removesuffix(".jpg"): [CLASSES.index(label) for label in own] for image, own in LABELS.items()}
    write(folder / "labels.json", json.dumps({"classes": CLASSES, "labels": {**labels, "later": None}}))
    return Case(folder, "json", LABELS, True)


@case
def json_samples_of_fiftyone(folder: Path) -> Case:
    touch(folder / "data", *LABELS)
    samples = [
        {
            "filepath": f"data/{image}",
            "tags": [{"val": "validation"}.get(split_of(image), split_of(image))],
            "metadata": None,
            "ground_truth": {
                "_cls": "Classifications",
                "classifications": [{"_cls": "Classification", "label": label} for label in labels],
            },
        }
        for image, labels in LABELS.items()
    ]
    return Case(write(folder / "samples.json", json.dumps({"samples": samples})), "json", LABELS, False)


@case
def json_of_datumaro(folder: Path) -> Case:
    content = {
        "info": {},
        "categories": {"label": {"labels": [{"name": name, "parent": "", "attributes": []} for name in CLASSES]}},
        "items": [
            {
                "id": image.removesuffix(".jpg"),
                "annotations": [
                    {"id": 0, "type": "label", "attributes": {}, "group": 0, "label_id": CLASSES.index(label)}
                    for label in labels
                ],
                "image": {"path": image, "size": [5, 5]},
            }
            for image, labels in LABELS.items()
        ],
    }
    write(folder / "annotations" / "default.json", json.dumps(content))
    touch(folder / "images" / "default", *LABELS)
    return Case(folder, "json", LABELS, True)


# -- xml, txt --------------------------------------------------------------------------------------------------------


@case
def cvat_for_images(folder: Path) -> Case:
    touch(folder / "images", *LABELS)
    images = "".join(
        f'<image id="{k}" name="{image}" subset="{split_of(image)}" width="5" height="5">'
        + "".join(f'<tag label="{label}" source="manual"></tag>' for label in labels)
        + "</image>"
        for k, (image, labels) in enumerate(LABELS.items())
    )
    names = "".join(f"<label><name>{name}</name><type>tag</type></label>" for name in CLASSES)
    text = (
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><name>t</name><labels>'
        f"{names}</labels></task></meta>{images}</annotations>"
    )
    write(folder / "annotations.xml", text)
    return Case(folder, "cvat", LABELS, False)


@case
def celeba_txt(folder: Path) -> Case:
    touch(folder / "img_align_celeba", *LABELS)
    rows = one_hot(list(LABELS), "1", "-1", "  ")
    write(folder / "list_attr_celeba.txt", "\n".join([str(len(rows)), "cat dog sun ", *rows]) + "\n")
    parts = "".join(f"{image} {SPLITS.index(split_of(image))}\n" for image in LABELS)
    write(folder / "list_eval_partition.txt", parts)
    write(folder / "identity_CelebA.txt", "a1.jpg 2880\n")
    return Case(folder, "celeba", LABELS, False)


@case
def celeba_csv(folder: Path) -> Case:
    touch(folder / "img_align_celeba" / "img_align_celeba", *LABELS)
    rows = one_hot(list(LABELS), "1", "-1")
    write(folder / "list_attr_celeba.csv", "\n".join(["image_id,cat,dog,sun", *rows]) + "\n")
    parts = [f"{image},{SPLITS.index(split_of(image))}" for image in LABELS]
    write(folder / "list_eval_partition.csv", "\n".join(["image_id,partition", *parts]) + "\n")
    return Case(folder, "celeba", LABELS, False)


@case
def csv_with_minus_one_for_no(folder: Path) -> Case:
    touch(folder, *LABELS)
    path = write(folder / "attr.csv", "\n".join(["image_id,cat,dog,sun", *one_hot(list(LABELS), "1", "-1")]) + "\n")
    return Case(path, "csv", LABELS, True)


@case
def list_files(folder: Path) -> Case:
    labelled = {image: labels for image, labels in LABELS.items() if labels}
    for split in ("train", "val"):
        images = [image for image in OF_SPLIT[split] if image in labelled]
        touch(folder, *images)
        lines = [f"{image} {' '.join(str(CLASSES.index(label)) for label in LABELS[image])}\n" for image in images]
        write(folder / f"{split}.txt", "".join(lines))
    expected = {
        image: [f"class_{CLASSES.index(label)}" for label in labels]
        for image, labels in labelled.items()
        if split_of(image) != "test"
    }
    return Case(folder, "list", expected, False)


# -- COCO, VOC, YOLO, folders ----------------------------------------------------------------------------------------


@case
def coco_of_roboflow(folder: Path) -> Case:
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        touch(folder / name, *OF_SPLIT[split])
        write(folder / name / "_annotations.coco.json", coco(OF_SPLIT[split]))
    return Case(folder, "coco_files", LABELS, False)


@case
def coco_of_label_studio(folder: Path) -> Case:
    touch(folder / "images", *LABELS)
    write(folder / "result.json", coco(list(LABELS)))
    return Case(folder, "coco_files", LABELS, True)


@case
def coco_with_text_ids_and_no_boxes(folder: Path) -> Case:
    for split, images in OF_SPLIT.items():
        touch(folder / "images" / split, *images)
        write(folder / "annotations" / f"instances_{split}.json", coco(images, ids=lambda k: f"id{k}", boxes=False))
    return Case(folder, "coco_files", LABELS, False)


@case
def coco_2017(folder: Path) -> Case:
    for split, images in (("train", TRAIN), ("val", VAL)):
        touch(folder / f"{split}2017", *images)
        write(folder / "annotations" / f"instances_{split}2017.json", coco(images))
        write(folder / "annotations" / f"captions_{split}2017.json", json.dumps({"images": [], "annotations": []}))
    return Case(folder, "coco2017", {image: LABELS[image] for image in (*TRAIN, *VAL)}, False)


@case
def voc_of_cvat(folder: Path) -> Case:
    for image in LABELS:
        write(folder / "Annotations" / f"{image[:-4]}.xml", voc_xml(image))
    touch(folder / "JPEGImages", *LABELS)
    for split, images in OF_SPLIT.items():
        write(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{image[:-4]}\n" for image in images))
    return Case(folder, "voc_files", LABELS, False)


@case
def voc_of_labelimg(folder: Path) -> Case:
    for image in LABELS:
        write(folder / f"{image[:-4]}.xml", voc_xml(image, filename="another name"))
    touch(folder, *LABELS)
    return Case(folder, "voc_files", LABELS, True)


@case
def voc_of_roboflow(folder: Path) -> Case:
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        touch(folder / name, *OF_SPLIT[split])
        for image in OF_SPLIT[split]:
            write(folder / name / f"{image[:-4]}.xml", voc_xml(image))
    return Case(folder, "voc_files", LABELS, False)


@case
def yolo_of_ultralytics(folder: Path) -> Case:
    for split, images in OF_SPLIT.items():
        touch(folder / "images" / split, *images)
        for image in images:
            if LABELS[image]:  # an image without boxes may have no file
                write(folder / "labels" / split / f"{image[:-4]}.txt", boxes(image))
    names = "".join(f"  {k}: {name}\n" for k, name in enumerate(CLASSES))
    write(folder / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{names}")
    return Case(folder, "yolo", LABELS, False)


@case
def yolo_of_roboflow(folder: Path) -> Case:
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        touch(folder / name / "images", *OF_SPLIT[split])
        for image in OF_SPLIT[split]:
            write(folder / name / "labels" / f"{image[:-4]}.txt", boxes(image))
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 3\nnames: ['cat', 'dog', 'sun']\n"
    write(folder / "data.yaml", text)
    write(folder / "README.dataset.txt", "made with Roboflow\n")
    return Case(folder, "yolo", LABELS, False)


@case
def yolo_of_label_studio(folder: Path) -> Case:
    touch(folder / "images", *LABELS)
    for image in LABELS:
        write(folder / "labels" / f"{image[:-4]}.txt", boxes(image))
    write(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    write(folder / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {}}))
    return Case(folder, "yolo", LABELS, True)


@case
def yolo_of_darknet(folder: Path) -> Case:
    for image in LABELS:
        touch(folder / "obj_train_data", image)
        write(folder / "obj_train_data" / f"{image[:-4]}.txt", boxes(image))
    write(folder / "obj.names", "".join(f"{name}\n" for name in CLASSES))
    write(folder / "train.txt", "".join(f"data/obj_train_data/{image}\n" for image in LABELS))
    write(folder / "obj.data", "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    return Case(folder, "yolo", LABELS, True)


@case
def class_folders(folder: Path) -> Case:
    expected = {}
    for split, images in (("train", TRAIN), ("val", VAL)):
        for name in CLASSES:
            for image in images:
                touch(folder / split / name, f"{name}_{image}")
                expected[f"{name}_{image}"] = [name]
    return Case(folder, "folder", expected, False)


@case
def class_folders_without_splits(folder: Path) -> Case:
    expected = {}
    for name in CLASSES:
        for image in LABELS:
            touch(folder / name, f"{name}_{image}")
            expected[f"{name}_{image}"] = [name]
    return Case(folder, "folder", expected, True)
