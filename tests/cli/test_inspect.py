import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from arrcoc.cli.inspect import HOSTS, allocate_pixels, appearance, lightness, resized_pixels, thumbnail_features
from arrcoc.cli.viewer import display_levels
from arrcoc.configuration_arrcoc import ArrCocConfig


CELL = {"qwen3_vl": 32, "qwen2_5_vl": 28}
SCHEMA = {
    "image": str,
    "size": list,
    "question": str,
    "host": str,
    "grid": list,
    "native_tokens": int,
    "tokens": int,
    "ratio": float,
    "deepseek_ocr": dict,
    "leaves_per_level": dict,
    "boxes": list,
    "levels": list,
    "picture": str,
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("host", HOSTS)
def test_pixels_are_those_of_the_image_processor(host):
    cell = CELL[host]
    image = noise(11 * cell, 9 * cell)  # large enough for both hosts, so not resized
    pixels = resized_pixels(image, host)
    assert pixels.shape == (9, 11, 3, cell, cell) and pixels.dtype == np.float32
    whole = pixels.transpose(0, 3, 1, 4, 2).reshape(9 * cell, 11 * cell, 3)
    assert np.abs(whole - np.asarray(image, np.float32) / 255).max() < 1e-6


def test_host_limits_are_those_of_published_processors():
    assert {host: 2 * settings["patch_size"] for host, settings in HOSTS.items()} == CELL
    for settings in HOSTS.values():
        processor = Qwen2VLImageProcessorPil(**settings)
        assert processor.size["shortest_edge"] < processor.size["longest_edge"]


def test_lightness_is_in_image_order():
    image = noise(10 * 32, 8 * 32)
    gray = lightness(resized_pixels(image, "qwen3_vl"))
    assert gray.shape == (256, 320)
    assert np.abs(gray * 255 - np.asarray(image.convert("L"), np.float32)).max() <= 1.01  # Pillow rounds


def test_thumbnails_tell_print_from_paper_whatever_its_contrast():
    cells = np.full((1, 4, 3, 32, 32), 0.95, np.float32)
    strokes = (np.indices((32, 32)).sum(0) % 12 < 6).astype(np.float32)
    cells[0, 1] -= 0.9 * strokes
    cells[0, 2] -= 0.3 * strokes
    features = thumbnail_features(cells)
    assert features.shape == (4, 8 * 8 + 3)
    shapes = features[:, :-3]
    assert (shapes[0] == 0).all() and (features[0] == features[3]).all()
    norms = np.linalg.norm(shapes, axis=1)
    assert norms[1] == pytest.approx(norms[2], rel=0.15) and norms[1] > 0.8


def test_appearance_is_mean_and_spread_of_each_color():
    pixels = resized_pixels(noise(320, 256), "qwen3_vl")
    seen = appearance(pixels)
    assert seen.shape == (80, 6)
    assert seen[13, 1] == pytest.approx(pixels[1, 3, 1].mean()) and seen[13, 5] == pytest.approx(pixels[1, 3, 2].std())


def test_inspect_writes_picture_and_counts(run, tmp_path, document):
    out = tmp_path / "out.png"
    status, text, err = run(
        "inspect", "--image", document, "--question", "What is the total?", "--token-budget", 240, "--out", out
    )
    assert status == 0 and err == ""
    assert "visual tokens 240 of 1344 (5.6x fewer)" in text and "DeepSeek-OCR Base (1024 px) takes 273" in text
    assert f"picture {out}" in text
    assert sum(map(int, re.findall(r"^ +(\d+) of ", text, flags=re.MULTILINE))) == 240
    with Image.open(out) as picture:
        assert picture.format == "PNG" and picture.width > 1000
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("policy", ["lod", "foveated", "tiers", "uniform", "random", "topk"])
def test_json_describes_a_partition(run, tmp_path, document, host, policy):
    out = tmp_path / "out.png"
    arguments = [
        "--image",
        document,
        "--token-budget",
        100,
        "--out",
        out,
        "--host",
        host,
        "--policy",
        policy,
        "--json",
    ]
    status, text, _ = run("inspect", *arguments)
    assert status == 0
    report = json.loads(text)
    assert {name: type(value) for name, value in report.items()} == SCHEMA
    rows, cols = report["grid"]
    assert report["host"] == host and report["native_tokens"] == rows * cols and report["tokens"] == 100
    assert report["ratio"] == pytest.approx(rows * cols / 100, abs=1e-3)
    assert report["deepseek_ocr"] == {"mode": "Small", "side": 640, "tokens": 111}

    covered = np.zeros((rows, cols), int)
    for top, left, bottom, right in report["boxes"]:
        assert 0 <= top < bottom <= rows and 0 <= left < right <= cols
        covered[top:bottom, left:right] += 1
    assert len(report["boxes"]) == 100
    if policy == "topk":
        assert covered.max() == 1 and covered.sum() == 100
    else:
        assert (covered == 1).all() or policy == "foveated" and covered.min() == 1 and covered.max() == 2
    sizes = [(bottom - top, right - left) for top, left, bottom, right in report["boxes"]]
    assert report["levels"] == display_levels(sizes)
    assert report["leaves_per_level"] == {str(level): report["levels"].count(level) for level in set(report["levels"])}


def test_another_question_gives_another_allocation(document):
    with Image.open(document) as image:
        image = image.convert("RGB")
    block = ArrCocConfig()

    def finest_share(question: str, region: tuple[slice, slice]) -> float:
        """Share of all tokens that a region of the 42 x 32 cells gets."""
        allocation = allocate_pixels(image, question, 200, "qwen3_vl", block)
        leaves = allocation.cell_to_leaf.reshape(42, 32)[region].unique()
        return len(leaves) / 200

    totals, header = (slice(22, 28), slice(19, 30)), (slice(0, 6), slice(0, 16))
    assert finest_share("What is the total?", totals) > 2 * finest_share("What is the title at the top left?", totals)
    assert finest_share("What is the title at the top left?", header) > 2 * finest_share("What is the total?", header)


def test_blank_paper_gets_no_detail(document):
    with Image.open(document) as image:
        allocation = allocate_pixels(image.convert("RGB"), "", 240, "qwen3_vl", ArrCocConfig())
    blank = allocation.cell_to_leaf.reshape(42, 32)[34:38].unique()
    assert len(blank) <= 32 and display_levels(allocation.sizes[blank].tolist()).count(0) == 0


def test_maps_are_in_range(document):
    with Image.open(document) as image:
        allocation = allocate_pixels(image.convert("RGB"), "the total", 240, "qwen2_5_vl", ArrCocConfig())
    assert set(allocation.maps) == {"information", "salience", "query"}
    for values in (*allocation.maps.values(), allocation.relevance):
        assert values.shape == (len(allocation.cell_to_leaf),)
        assert torch.isfinite(values).all() and values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize(("budget", "tokens"), [("0.25", 336), ("1.0", 1344), ("auto:two_mode", 64)])
def test_relative_and_automatic_budgets(run, tmp_path, document, budget, tokens):
    arguments = [
        "--image",
        document,
        "--question",
        "Who?",
        "--token-budget",
        budget,
        "--out",
        tmp_path / "o.png",
        "--json",
    ]
    status, text, _ = run("inspect", *arguments)
    assert status == 0 and json.loads(text)["tokens"] == tokens


def test_auto_budget_reads_the_image(run, tmp_path, document):
    status, text, _ = run(
        "inspect", "--image", document, "--token-budget", "auto", "--out", tmp_path / "o.png", "--json"
    )
    assert status == 0 and json.loads(text)["tokens"] in (64, 100, 160, 256, 400)


def test_budget_above_native_is_clipped_with_a_note(run, tmp_path, document):
    status, text, err = run(
        "inspect", "--image", document, "--token-budget", 5000, "--out", tmp_path / "o.png", "--json"
    )
    assert status == 0 and json.loads(text)["tokens"] == 1344
    assert err.startswith("arrcoc: note: ") and "1344" in err and "5000" in err and err.count("\n") == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (3000, 20), (40, 900)])
def test_odd_images(run, tmp_path, mode, size):
    source = tmp_path / ("image.tiff")
    Image.new(mode, size).save(source)
    out = tmp_path / "out.webp"
    status, text, err = run("inspect", "--image", source, "--token-budget", 7, "--out", out, "--json")
    assert status == 0, err
    assert json.loads(text)["tokens"] == 7 and json.loads(text)["size"] == list(size)
    with Image.open(out) as picture:
        picture.load()


def test_first_frame_of_an_animation(run, tmp_path):
    source = tmp_path / "frames.gif"
    Image.new("RGB", (300, 200), "red").save(source, save_all=True, append_images=[noise(300, 200)])
    status, text, _ = run("inspect", "--image", source, "--token-budget", 5, "--out", tmp_path / "o.png", "--json")
    assert status == 0 and json.loads(text)["tokens"] == 5


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "truncated", "line"])
def test_unreadable_image_is_one_line_and_writes_nothing(fails, tmp_path, document, kind):
    source = tmp_path / "image.png"
    if kind == "folder":
        source.mkdir()
    elif kind == "text":
        source.write_text("no image")
    elif kind == "truncated":
        source.write_bytes(document.read_bytes()[:5000])
    elif kind == "line":
        Image.new("L", (3000, 1)).save(source)
    line = fails("inspect", "--image", source, "--out", tmp_path / "out.png")
    assert "image" in line and not (tmp_path / "out.png").exists()


def test_decompression_bomb_is_explained(fails, tmp_path, monkeypatch):
    source = tmp_path / "large.png"
    Image.new("1", (400, 300)).save(source)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    assert "400x300 pixels" in fails("inspect", "--image", source, "--out", tmp_path / "out.png")


@pytest.mark.parametrize("name", ["out.txt", "out", "none/out.png"])
def test_bad_output_path_is_a_usage_error(fails, tmp_path, document, name):
    assert "--out" in fails("inspect", "--image", document, "--out", tmp_path / name)


def test_failed_writing_leaves_the_old_picture(fails, tmp_path, document, monkeypatch):
    out = tmp_path / "out.png"
    out.write_bytes(b"old")

    def save(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", save)
    assert fails("inspect", "--image", document, "--out", out) == "arrcoc: disk full"
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


def test_host_and_model_exclude_each_other(fails, tmp_path, document):
    arguments = ["--image", document, "--out", tmp_path / "o.png", "--host", "qwen3_vl", "--model", tmp_path]
    assert "not allowed with" in fails("inspect", *arguments)
