"""An image's name leads to its file by one rule, whatever system wrote it, and nowhere out of the folders."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from vistune.records import ImageFolders, RecordError

COMPOSED = unicodedata.normalize("NFC", "바다 é.png")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("p1.jpg", "sub/p1.jpg", "sub/p2.jpg"):
        Image.new("RGB", (8, 8)).save(images / name)
    return images


def found(folder: Path, name: str) -> Path:
    return Path(str(ImageFolders([folder]).find(name, "data.jsonl:1", "image").source))


@pytest.mark.parametrize("name", ["sub/p2.jpg", "sub\\p2.jpg", ".\\sub\\p2.jpg", "./sub/p2.jpg", "sub//p2.jpg"])
def test_paths_of_every_system_are_read(folder: Path, name: str) -> None:
    assert found(folder, name) == folder.resolve() / "sub" / "p2.jpg"


@pytest.mark.parametrize(("on_disk", "named"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_both_unicode_forms_of_a_name_are_the_same(folder: Path, on_disk: str, named: str) -> None:
    for place in (folder, folder / "sub"):
        Image.new("RGB", (8, 8)).save(place / on_disk)
    forms = ("NFC", "NFD") if on_disk == COMPOSED else ("NFD", "NFC")
    same, other = (unicodedata.normalize(form, "사진") for form in forms)  # type: ignore[arg-type]
    korean = folder / same
    korean.mkdir()
    Image.new("RGB", (8, 8)).save(korean / "1.png")
    assert found(folder, named).name == on_disk
    assert found(folder, f"sub/{named}").is_file()
    assert found(folder, f"{other}/1.png") == korean.resolve() / "1.png"


def test_an_absolute_path_inside_a_folder_is_taken(folder: Path) -> None:
    assert found(folder, str(folder / "sub" / "p2.jpg")) == folder.resolve() / "sub" / "p2.jpg"
    linked = folder.parent / "linked"
    linked.symlink_to(folder)
    assert found(linked, str(linked / "p1.jpg")) == folder.resolve() / "p1.jpg"


REFUSED = {
    "https://example.org/a.jpg": "links are not followed.*download the image",
    "HTTP://example.org/a.jpg": "links are not followed",
    "file:///data/a.jpg": r"file:// address.*write the path alone",
    "data:image/jpeg;base64,/9j/4AAQ": "holds the image itself.*write the image to a file",
    "s3://bucket/a.jpg": "object storage",
    "ftp://host/a.jpg": "is an address",
    "/etc/passwd": "leaves the image folder",
    "C:\\photos\\a.jpg": "leaves the image folder",
    "../a.jpg": "leaves the image folder",
    "sub/../../a.jpg": "leaves the image folder",
    "sub\\..\\..\\a.jpg": "leaves the image folder",
    "": "does not name an image",
    "sub/": "no image",
    "p2.jpg": r"did you mean 'p1\.jpg'",
    "images/p1.jpg": r"did you mean 'p1\.jpg'",
    "P1.JPG": r"did you mean 'p1\.jpg'",
    "nowhere/x.png": "check the image folder",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_found_says_what_is_wrong_and_what_to_do(folder: Path, name: str) -> None:
    with pytest.raises(RecordError, match=f"(?s){REFUSED[name]}") as caught:
        found(folder, name)
    assert caught.value.message.startswith("data.jsonl:1:image: ")
    assert caught.value.hint


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_taken(folder: Path) -> None:
    (folder.parent / "secret.jpg").write_bytes(b"x")
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "in.jpg").symlink_to(folder / "p1.jpg")
    with pytest.raises(RecordError, match="link out of the image folder"):
        found(folder, "out.jpg")
    assert found(folder, "in.jpg").is_file()


def test_without_folders_names_need_not_exist_and_addresses_are_refused_all_the_same() -> None:
    folders = ImageFolders(None)
    assert Path(str(folders.find("sub\\a.jpg", "x:1", "image").source)) == Path("sub/a.jpg")
    with pytest.raises(RecordError, match="links are not followed"):
        folders.find("https://example.org/a.jpg", "x:1", "image")
