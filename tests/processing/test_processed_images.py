"""The processor's maps of information, its pictures and counts, and its files."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from arrcoc.processing import (
    ArrCocProcessor,
    image_compression_ratio,
    information_map,
)
from tests.helpers.chats import IMAGE, OWN_KEYS, STOCK_KEYS, assert_same, chat, picture, placeholders, user
from tests.helpers.tiny_processors import (
    CELL_SIZE,
    stock_processor,
    tiny_image_processor,
    tiny_processor,
    write_stock_processor_folder,
)


class TestInformation:
    @pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
    def test_map_is_that_of_the_resized_pixels(self, host, return_tensors):
        cell = CELL_SIZE[host]
        images = [picture(9 * cell, 5 * cell), picture(3 * cell, 4 * cell, 1)]  # sizes that are kept
        processor = tiny_processor(host)
        inputs = processor(images, IMAGE * 2, token_budget=4, return_tensors=return_tensors)
        grays = [np.asarray(image.convert("RGB"), np.float32) @ [0.299, 0.587, 0.114] / 255 for image in images]
        expected = np.concatenate([information_map(gray, cell) for gray in grays])
        information = np.asarray(inputs["image_information"])
        assert information.dtype == np.float32 and information.shape == (5 * 9 + 4 * 3,)
        np.testing.assert_allclose(information, expected, atol=2e-3)
        assert information.max() > 0.2

    @pytest.mark.parametrize(
        "settings",
        [
            {"do_normalize": False},
            {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]},
            {"do_rescale": True, "rescale_factor": 1 / 127.5},
            {"do_resize": False},
        ],
    )
    @pytest.mark.parametrize("per_call", [False, True])
    def test_map_does_not_depend_on_normalisation(self, host, settings, per_call):
        cell = CELL_SIZE[host]
        image = picture(6 * cell, 5 * cell)
        plain = tiny_processor(host)(image, IMAGE, token_budget=4)
        if per_call:
            other = tiny_processor(host)(image, IMAGE, token_budget=4, **settings)
        else:
            changed = tiny_image_processor(host, **settings)
            other = tiny_processor(host, image_processor=changed)(image, IMAGE, token_budget=4)
        np.testing.assert_allclose(other["image_information"], plain["image_information"], atol=1e-4)

    def test_arrays_already_between_0_and_1(self, host):
        image = picture(6 * CELL_SIZE[host], 5 * CELL_SIZE[host])
        processor = tiny_processor(host)
        plain = processor(image, IMAGE, token_budget=4)
        scaled = processor(np.asarray(image) / np.float32(255), IMAGE, token_budget=4, do_rescale=False)
        np.testing.assert_allclose(scaled["image_information"], plain["image_information"], atol=1e-4)

    def test_samples_do_not_depend_on_their_batch(self, host):
        processor = tiny_processor(host)
        images = [picture(90 + 40 * seed, 200, seed) for seed in range(3)]
        text = [f"{IMAGE}{'question ' * (seed + 1)}" for seed in range(3)]
        batch = processor(images, text, token_budget="auto", padding=True, return_tensors="pt")
        cells = (batch["image_grid_thw"].prod(1) // 4).tolist()
        for index, part in enumerate(batch["image_information"].split(cells)):
            single = processor(images[index], text[index], token_budget="auto", return_tensors="pt")
            assert torch.equal(single["image_information"], part)
            assert single["image_token_budgets"] == batch["image_token_budgets"][index]
            length = single["image_query_ids"].shape[1]
            assert torch.equal(single["image_query_ids"][0], batch["image_query_ids"][index, :length])
            assert batch["image_query_mask"][index].sum() == length

    def test_types_of_tensors(self, host):
        for return_tensors, kind in ((None, np.ndarray), ("np", np.ndarray), ("pt", torch.Tensor)):
            inputs = tiny_processor(host)(picture(64, 64), IMAGE, token_budget=2, return_tensors=return_tensors)
            assert all(isinstance(inputs[key], kind) for key in OWN_KEYS)
            for key in OWN_KEYS - {"image_information"}:
                assert str(inputs[key].dtype).endswith("int64")


class TestImages:
    def test_files_and_wide_gray(self, host, tmp_path):
        processor, path = tiny_processor(host), tmp_path / "scan.png"
        Image.fromarray(np.linspace(0, 65535, 128 * 128).astype(np.uint16).reshape(128, 128)).save(path)
        inputs = [processor(source, IMAGE) for source in (Image.open(path), path, str(path))]
        inputs.append(chat(processor, [user("", str(path))]))
        for other in inputs:
            np.testing.assert_array_equal(other["pixel_values"], inputs[0]["pixel_values"])
        assert np.unique(inputs[0]["pixel_values"]).size > 100

    @pytest.mark.parametrize("image", [Image.new("L", (1, 3000)), Image.new("RGB", (3000, 14))])
    def test_too_long_and_thin(self, host, image):
        with pytest.raises(ValueError, match=f"{image.width}x{image.height} pixels"):
            tiny_processor(host)([image], IMAGE)

    def test_one_pixel(self, host):
        processor = tiny_processor(host)
        inputs = processor(Image.new("RGB", (1, 1)), IMAGE, token_budget=3)
        assert placeholders(processor, inputs) == [3] and inputs["image_information"].tolist() == [0] * 4

    def test_videos_are_refused_plainly(self, host):
        error, match = ImportError, r"arrcoc\[video\]"
        if is_torchvision_available():
            error, match = ValueError, "stock processor"
        video = np.zeros((4, 64, 64, 3), np.uint8)
        processor = tiny_processor(host)
        with pytest.raises(error, match=match):
            processor(text="<|vision_start|><|video_pad|><|vision_end|>", videos=[video])
        with pytest.raises(error, match=match):
            chat(processor, [{"role": "user", "content": [{"type": "video", "video": video}]}])
        with pytest.raises(error, match=match):
            processor._get_num_multimodal_tokens(video_sizes=[(4, 64, 64)])


class TestCounts:
    SIZES = [(1, 1), (30, 31), (64, 64), (100, 700), (333, 47), (480, 640), (1000, 999), (2100, 2200)]

    @pytest.mark.parametrize("token_budget", [None, 1, 50, 0.4, "auto:two_mode", [1, 2, None, 0.5, 5, 0.1, 1.0, 300]])
    def test_counts_are_those_of_the_call(self, host, token_budget):
        processor = tiny_processor(host)
        images = [Image.new("RGB", (width, height)) for height, width in self.SIZES]
        inputs = processor(images, [f"{IMAGE}What now?"] * len(images), token_budget=token_budget)
        data = processor._get_num_multimodal_tokens(self.SIZES, token_budget=token_budget, queries="What now?")
        assert data.num_image_tokens == placeholders(processor, inputs)
        assert data.num_image_patches == inputs["image_grid_thw"].prod(1).tolist()

    def test_default_and_size(self, host):
        processor = tiny_processor(host, token_budget=0.5)
        sizes, size = [(700, 900)], {"shortest_edge": 4 * 32**2, "longest_edge": 60 * 32**2}
        written = placeholders(processor, processor(Image.new("RGB", (900, 700)), IMAGE, size=size))
        assert written[0] < 50
        assert processor._get_num_multimodal_tokens(sizes, size=size).num_image_tokens == written
        native = processor._get_num_multimodal_tokens(sizes, token_budget=None)
        stock = stock_processor(host)._get_num_multimodal_tokens(sizes)
        assert native.num_image_tokens == stock.num_image_tokens

    def test_auto_needs_question_and_image(self, host):
        processor, image = tiny_processor(host), picture(1000, 800)
        with pytest.raises(ValueError, match="depends on the question: pass `queries`"):
            processor._get_num_multimodal_tokens([(800, 1000)], token_budget="auto")
        with pytest.raises(ValueError, match="depends on the image"):
            processor._get_num_multimodal_tokens([(800, 1000)], token_budget="auto", queries=["Hi"])
        ratio = image_compression_ratio(np.asarray(image.convert("L"), np.float32) / 255)
        data = processor._get_num_multimodal_tokens(
            [(800, 1000)], token_budget="auto", queries=["Hi"], compression_ratios=[ratio]
        )
        assert data.num_image_tokens == placeholders(processor, processor(image, f"{IMAGE}Hi", token_budget="auto"))


class TestFiles:
    def test_attributes(self, host):
        assert ArrCocProcessor.get_attributes() == ["image_processor", "tokenizer"]
        names = tiny_processor(host).model_input_names
        assert STOCK_KEYS | OWN_KEYS <= set(names) and len(names) == len(set(names))

    @pytest.mark.parametrize("image_processor_type", ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"])
    def test_stock_checkpoint(self, host, tmp_path, image_processor_type):
        folder = write_stock_processor_folder(tmp_path, host, image_processor_type)
        processor = ArrCocProcessor.from_pretrained(folder)
        if not is_torchvision_available():
            assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"
        assert processor.token_budget is None and processor.tiers == (64, 100, 160, 256, 400)
        conversation = [user("What?", picture(150, 150))]
        if type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil":
            assert_same(chat(processor, conversation), chat(stock_processor(host), conversation))
        assert placeholders(processor, chat(processor, conversation, token_budget=3)) == [3]

    def test_checkpoint_saved_by_a_current_stock_processor(self, host, tmp_path):
        stock_processor(host).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "processor_config.json").read_text())
        config["video_processor"] = {"video_processor_type": "Qwen3VLVideoProcessor", "patch_size": 16}
        (tmp_path / "processor_config.json").write_text(json.dumps(config))
        processor = ArrCocProcessor.from_pretrained(tmp_path)
        conversation = [user("What?", picture(150, 150))]
        assert placeholders(processor, chat(processor, conversation, token_budget=3)) == [3]

    def test_round_trip(self, host, tmp_path):
        processor = tiny_processor(host, token_budget=np.int64(9), auto_strategy="two_mode", tiers=[32, 64])
        processor.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "processor_config.json").read_text())
        assert (saved["token_budget"], saved["auto_strategy"], saved["tiers"]) == (9, "two_mode", [32, 64])
        loaded = ArrCocProcessor.from_pretrained(tmp_path)
        assert (loaded.token_budget, loaded.auto_strategy, loaded.tiers) == (9, "two_mode", (32, 64))
        conversation = [user("What?", picture(300, 300))]
        assert_same(chat(loaded, conversation), chat(processor, conversation))
        assert_same(chat(pickle.loads(pickle.dumps(processor)), conversation), chat(processor, conversation))

    def test_settings_at_loading_stay_with_the_processor(self, host, tmp_path):
        folder = write_stock_processor_folder(tmp_path / "stock", host)
        processor = ArrCocProcessor.from_pretrained(folder, token_budget=0.5, auto_strategy="two_mode", tiers=[9])
        assert (processor.token_budget, processor.auto_strategy, processor.tiers) == (0.5, "two_mode", (9,))
        processor.save_pretrained(tmp_path / "saved")
        assert "token_budget" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()
        assert not hasattr(processor.image_processor, "tiers")

    def test_exported_folder_works_where_arrcoc_cannot_be_imported(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ArrCocProcessor, "_auto_class", None)  # restored after the test
        ArrCocProcessor.register_for_auto_class("AutoProcessor")
        tiny_processor("qwen3_vl", token_budget=5).save_pretrained(tmp_path / "export")
        files = {path.name for path in (tmp_path / "export").glob("*.py")}
        assert files == {"processing_arrcoc.py", "budgets.py", "images.py", "information.py", "queries.py"}
        code = f"""if True:
            import sys
            sys.modules["arrcoc"] = None
            from PIL import Image
            from transformers import AutoProcessor
            processor = AutoProcessor.from_pretrained({str(tmp_path / "export")!r}, trust_remote_code=True)
            inputs = processor(Image.new("RGB", (128, 128)), {IMAGE + "Hi"!r})
            print(type(processor).__name__, inputs["image_token_budgets"].tolist(), len(inputs["image_query_ids"][0]))
        """
        environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == "ArrCocProcessor [5] 2"
