"""Companions of images: recognised by name and pixels, and never an image that has no partner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casewise.cohort.companions import companions, companions_text, masks_by_image

SIDE = 64
RANDOM = np.random.default_rng(0)


def photograph(side: int = SIDE) -> np.ndarray:
    coarse = Image.fromarray(RANDOM.integers(20, 235, (8, 8, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def mask(labels: int = 1) -> np.ndarray:
    values = np.zeros((SIDE, SIDE), np.uint8)
    for label in range(1, labels + 1):
        values[8 * label : 8 * label + 12, 10:30] = 255 // label
    return values


def superpixels() -> np.ndarray:
    return np.kron(RANDOM.integers(0, 255, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)


def write(folder: Path, files: dict[str, np.ndarray]) -> list[str]:
    for name, pixels in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return list(files)


def kinds(folder: Path, files: dict[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    result, _ = companions(folder, write(folder, files))
    return {path: (companion.kind, companion.image) for path, companion in result.items()}


# name of the image, name of its mask
NAMES = [
    ("benign (1).png", "benign (1)_mask.png"),
    ("benign (1).png", "benign (1)_mask_1.png"),
    ("a/1.jpg", "a/1_seg.png"),
    ("ISIC_0000001.jpg", "ISIC_0000001_Segmentation.png"),
    ("IN/ISIC_0000001.jpg", "GroundTruth/ISIC_0000001_segmentation.png"),
    ("P1.png", "P1.mask.png"),
    ("P1.png", "mask_P1.png"),
    ("P1.jpg", "P1-GT.png"),
    ("P1 left.png", "P1 left label.png"),
    ("TCGA_1_2.tif", "TCGA_1_2_mask.tif"),
    ("images/P1/1.png", "masks/P1/1.png"),
    ("COVID/images/COVID-1.png", "COVID/masks/COVID-1.png"),
    ("CXR_png/MCU_0001_0.png", "ManualMask/leftMask/MCU_0001_0.png"),
    ("P1_image.png", "P1_mask.png"),
    ("image_1.png", "label_1.png"),
    ("img001.png", "img001mask.png"),
    ("imagesTr/BRATS_001.png", "labelsTr/BRATS_001.png"),
    ("P1/image.png", "P1/mask.png"),
    ("P1.jpg", "P1.png"),
    ("P1.png", "P1_other.png"),
    ("images/001.png", "tumour/001.png"),
]


@pytest.mark.parametrize(("image", "of_mask"), NAMES)
def test_mask_of_one_image(tmp_path: Path, image: str, of_mask: str) -> None:
    others = {f"Q{i}_view.png": photograph() for i in range(2)}
    assert kinds(tmp_path, {image: photograph(), of_mask: mask(2), **others}) == {of_mask: ("mask", image)}


def test_other_kinds(tmp_path: Path) -> None:
    image = photograph()
    drawn = image.copy()
    drawn[20:24, 10:50] = (255, 0, 0)
    small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS))
    files = {"1.png": image, "1_superpixels.png": superpixels(), "1_overlay.png": drawn, "1_b.png": drawn}
    files |= {"1_thumb.png": small, "1-32x32.png": small, "1_heatmap.png": superpixels()}
    found = kinds(tmp_path, files)
    assert {path: kind for path, (kind, _) in found.items()} == {
        "1_superpixels.png": "annotation",
        "1_overlay.png": "overlay",
        "1_b.png": "overlay",
        "1_heatmap.png": "overlay",
        "1_thumb.png": "thumbnail",
        "1-32x32.png": "thumbnail",
    }
    assert {image for _, image in found.values()} == {"1.png"}


IMAGES = {
    "people with masks": ["with_mask/1.jpg", "without_mask/1.jpg", "with_mask/2.jpg", "without_mask/2.jpg"],
    "in file names": ["with_mask_1.jpg", "with_mask_2.jpg", "without_mask_1.jpg"],
    "one person": ["anna.jpg", "anna_mask.jpg"],
    "classes": ["mask/1.jpg", "no_mask/1.jpg"],
    "a class": ["mask/1.jpg", "bare/1.jpg"],
    "every name": ["1_mask.png", "2_mask.png"],
    "hands": ["P1.jpg", "P1_thumb.jpg", "P1_palm.jpg"],
    "lesions": ["P1.png", "P1_lesion.png", "P1_roi.png"],
    "visits": ["P1.png", "P1_2.png", "P1_3.png"],
    "labels of classes": ["label_1/a.png", "label_2/a.png", "label 3/b.png"],
    "subjects": ["P1/1.png", "P2/1.png", "P1/2.png"],
    "truth or lie": ["truth/1.jpg", "lie/1.jpg"],
}


@pytest.mark.parametrize("names", IMAGES.values(), ids=IMAGES)
def test_photographs_stay(tmp_path: Path, names: list[str]) -> None:
    assert kinds(tmp_path, {name: photograph() for name in names}) == {}


def test_names_that_pixels_contradict_are_stated(tmp_path: Path) -> None:
    assert companions(tmp_path, write(tmp_path, {"1.jpg": photograph(), "1_mask.jpg": photograph()})) == (
        {},
        ["1_mask.jpg"],
    )


def test_masks_alone_are_images(tmp_path: Path) -> None:
    assert kinds(tmp_path, {f"{i}_mask.png": mask() for i in range(4)}) == {}
    assert kinds(tmp_path / "b", {f"{c}/{i}.png": mask() for c in ("mask", "roi") for i in range(4)}) == {}


def test_dark_images_at_two_visits_are_no_overlays(tmp_path: Path) -> None:
    def fundus() -> np.ndarray:
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[10:54, 10:54] = photograph(44)
        return picture

    assert kinds(tmp_path, {"P1.png": fundus(), "P1_2.png": fundus(), "P1_3.png": fundus()}) == {}


def test_several_masks_of_an_image_and_one_without_image(tmp_path: Path) -> None:
    files = {"b (1).png": photograph(), "b (1)_mask.png": mask(), "b (1)_mask_1.png": mask(), "b (2).png": photograph()}
    files |= {"b (2)_mask.png": mask(), "b (3)_mask.png": mask()}
    result, unclear = companions(tmp_path, write(tmp_path, files))
    assert (sorted(result), unclear) == (sorted(name for name in files if "mask" in name), [])
    assert masks_by_image(result.values()) == ({"b (2).png": "b (2)_mask.png"}, ["b (1).png"])
    assert companions_text(result.values()).startswith("4 masks, such as b (1)_mask.png of b (1).png")


def test_masks_of_other_names_in_a_folder_of_masks(tmp_path: Path) -> None:
    files = {"c1/images/c1.png": photograph(), "c2/images/c2.png": photograph()}
    files |= {f"c{i}/masks/{k}{i}f.png": mask() for i in (1, 2) for k in "ab"}
    assert sorted(kinds(tmp_path, files)) == sorted(name for name in files if "masks" in name)


# folders of images, and the one of masks, whose files have other names
FOLDERS = [
    (["benign", "malignant"], "masks"),
    (["benign", "malignant"], "truth"),
    (["benign", "malignant"], "GT"),
    (["benign/2024", "malignant/2024"], "expert_masks/2024"),
    (["P1/cxr", "P2/cxr"], "P1/segmentation"),
    (["site/benign", "site/malignant"], "site/manual"),
    (["a", "b", "."], "outlines"),
    (["ill", "well"], "second reader"),
]


@pytest.mark.parametrize(("of_images", "of_masks"), FOLDERS)
def test_folders_of_masks_beside_folders_of_images(tmp_path: Path, of_images: list[str], of_masks: str) -> None:
    files = {f"{folder}/photo {chr(97 + i)}.png": photograph() for folder in of_images for i in range(3)}
    files |= {f"{of_masks}/{i:04d}.png": mask() for i in range(3)}
    assert sorted(kinds(tmp_path, files)) == [f"{of_masks}/{i:04d}.png" for i in range(3)]


def test_pictures_of_two_values_are_images_unless_those_of_other_folders_are_not(tmp_path: Path) -> None:
    def traces(folder: str, side: int = SIDE) -> dict[str, np.ndarray]:
        return {
            f"{folder}/trace {i}.png": np.asarray(Image.fromarray(mask()).resize((side, side), 0)) for i in range(3)
        }

    photos = {f"photos/{i}.png": photograph() for i in range(3)}
    for number, files in enumerate(
        (
            traces("af") | traces("sinus"),
            traces("af") | {f"af/photo {i}.png": photograph() for i in range(3)} | photos,
            {f"black/dark {chr(97 + i)}.png": np.zeros((SIDE, SIDE), np.uint8) for i in range(3)} | photos,
            {"lone/trace.png": mask()} | photos,
            {f"mask/face {i}.png": photograph() for i in range(3)} | photos,
        )
    ):
        assert companions(tmp_path / str(number), write(tmp_path / str(number), files)) == ({}, [])
    # of another size, they are doubted
    files = traces("af", 32) | photos
    result, doubtful = companions(tmp_path / "sizes", write(tmp_path / "sizes", files))
    assert (result, sorted(doubtful)) == ({}, sorted(traces("af")))


def test_volumes_by_their_names(tmp_path: Path) -> None:
    names = ["P1/P1_t1.nii.gz", "P1/P1_seg.nii.gz", "P2/P2_t1.nii.gz", "P2/lesion.nii.gz"]
    assert sorted(companions(tmp_path, names)[0]) == ["P1/P1_seg.nii.gz", "P2/lesion.nii.gz"]
    assert companions(tmp_path, ["seg_1.nii.gz", "seg_2.nii.gz"])[0] == {}
