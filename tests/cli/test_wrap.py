import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import arrcoc
from arrcoc.cli.checkpoints import MODEL_CLASSES
from arrcoc.cli.wrap import wrap


def weights(folder) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").state_dict()


def test_wrapped_checkpoint_holds_the_stock_weights(run, stock_folder, tmp_path):
    out = tmp_path / "wrapped"
    status, text, _ = run("wrap", stock_folder, out, "--policy", "tiers", "--max-level", 2, "--token-budget", 100)
    assert status == 0 and str(out) in text and "policy tiers" in text

    config = AutoConfig.from_pretrained(out)
    assert config.model_type == f"arrcoc_{stock_folder.name}"
    assert (config.arrcoc_config.policy, config.arrcoc_config.max_level) == ("tiers", 2)
    assert isinstance(AutoProcessor.from_pretrained(out), arrcoc.ArrCocProcessor)
    assert AutoProcessor.from_pretrained(out).token_budget == 100

    stock, wrapped = weights(stock_folder), weights(out)
    assert stock.keys() <= wrapped.keys()
    for name, value in stock.items():
        assert wrapped[name].dtype == value.dtype == torch.bfloat16
        assert torch.equal(wrapped[name], value), name


def test_files_are_no_larger_and_the_licence_comes_along(run, stock_folder, tmp_path):
    out = tmp_path / "wrapped"
    assert run("wrap", stock_folder, out)[0] == 0
    largest = max(file.stat().st_size for file in stock_folder.glob("*.safetensors"))
    shards = list(out.glob("*.safetensors"))
    assert len(shards) > 1 and max(file.stat().st_size for file in shards) <= 1.1 * largest
    assert (out / "LICENSE").read_text() == "the licence of the weights"
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()
    assert [path.name for path in tmp_path.iterdir()] == ["wrapped"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_wrapping_twice_keeps_the_options(run, stock_folder, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert run("wrap", stock_folder, once, "--query-scorer", "cosine", "--token-budget", "auto")[0] == 0
    assert run("wrap", once, twice, "--policy", "uniform")[0] == 0
    block = AutoConfig.from_pretrained(twice).arrcoc_config
    assert (block.query_scorer, block.policy) == ("cosine", "uniform")
    assert AutoProcessor.from_pretrained(twice).token_budget == "auto"


def test_an_empty_folder_may_be_filled(run, stock_folder, tmp_path):
    out = tmp_path / "wrapped"
    out.mkdir()
    assert run("wrap", stock_folder, out)[0] == 0
    assert (out / "config.json").exists()


def test_what_is_there_is_kept_unless_overwritten(run, fails, stock_folder, tmp_path):
    out = tmp_path / "wrapped"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    line = fails("wrap", stock_folder, out)
    assert "not empty" in line and "--overwrite" in line
    assert [path.name for path in out.iterdir()] == ["notes.txt"]

    assert run("wrap", stock_folder, out, "--overwrite")[0] == 0
    assert (out / "config.json").exists() and not (out / "notes.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["wrapped"]


@pytest.mark.parametrize("existing", [False, True])
def test_failure_leaves_nothing_half_written(fails, stock_folder, tmp_path, monkeypatch, existing):
    def fail(self, folder, **_):
        raise OSError("disk full")

    out = tmp_path / "wrapped"
    if existing:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    monkeypatch.setattr(arrcoc.ArrCocProcessor, "save_pretrained", fail)
    assert fails("wrap", stock_folder, out, "--overwrite") == "arrcoc: disk full"
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == (
        ["wrapped", "wrapped/notes.txt"] if existing else []
    )


def test_failed_exchange_restores_the_old_folder(fails, stock_folder, tmp_path, monkeypatch):
    out = tmp_path / "wrapped"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    rename = type(out).rename

    def fail_for_the_new_one(self, target):
        if self.name == "new":
            raise OSError("no such luck")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", fail_for_the_new_one)
    assert fails("wrap", stock_folder, out, "--overwrite") == "arrcoc: no such luck"
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["wrapped", "wrapped/notes.txt"]


def test_the_stock_folder_is_never_replaced(fails, stock_folder):
    before = sorted(stock_folder.iterdir())
    for out in (stock_folder, stock_folder.parent):
        assert "would replace" in fails("wrap", stock_folder, out, "--overwrite")
    assert sorted(stock_folder.iterdir()) == before


def test_out_must_be_no_file(fails, stock_folder, tmp_path):
    out = tmp_path / "file"
    out.write_text("mine")
    assert "is a file" in fails("wrap", stock_folder, out, "--overwrite")
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{", "no JSON"),
        ("[]", "architecture None"),
        ('{"model_type": "llama"}', "architecture 'llama'; supported are 'qwen3_vl'"),
        ('{"model_type": "qwen3_vl"}', "has no weights"),
    ],
)
def test_what_is_no_checkpoint_is_refused(fails, tmp_path, config, message):
    stock = tmp_path / "stock"
    stock.mkdir()
    if config is not None:
        (stock / "config.json").write_text(config)
    line = fails("wrap", stock, tmp_path / "wrapped")
    assert message in line and str(stock) in line
    assert not (tmp_path / "wrapped").exists()


@pytest.mark.parametrize("name", ["nowhere", "./owner/name", "/no/such/folder"])
def test_missing_folder(fails, tmp_path, name):
    assert fails("wrap", name, tmp_path / "wrapped") == f"arrcoc: no checkpoint folder {name}"


def test_name_on_the_hub_is_fetched(run, stock_folder, tmp_path, monkeypatch):
    asked = []

    def fetch(name, **_):
        asked.append(name)
        return str(stock_folder)

    monkeypatch.setattr("arrcoc.cli.checkpoints.snapshot_download", fetch)
    assert run("wrap", "Qwen/Qwen3-VL-2B-Instruct", tmp_path / "wrapped")[0] == 0
    assert asked == ["Qwen/Qwen3-VL-2B-Instruct"]


def test_damaged_weights_are_one_line(fails, stock_folder, tmp_path):
    stock = tmp_path / "stock"
    shutil.copytree(stock_folder, stock)
    shard = sorted(stock.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:1000])
    assert f"the weights in {stock} are damaged" in fails("wrap", stock, tmp_path / "wrapped")
    assert not (tmp_path / "wrapped").exists()


def test_incomplete_weights_are_one_line(fails, stock_folder, tmp_path):
    stock = tmp_path / "stock"
    shutil.copytree(stock_folder, stock)
    index = json.loads((stock / "model.safetensors.index.json").read_text())
    name, shard = next((name, shard) for name, shard in index["weight_map"].items() if "mlp" in name)
    tensors = load_file(stock / shard)
    del tensors[name], index["weight_map"][name]
    save_file(tensors, stock / shard, metadata={"format": "pt"})
    (stock / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "are incomplete: 1 are missing, such as" in fails("wrap", stock, tmp_path / "wrapped")
    assert not (tmp_path / "wrapped").exists()


def test_option_out_of_range_is_one_line(fails, stock_folder, tmp_path):
    assert "--max-level" in fails("wrap", stock_folder, tmp_path / "wrapped", "--max-level", "-1")
    assert "auto:best" in fails("wrap", stock_folder, tmp_path / "wrapped", "--token-budget", "auto:best")
    assert not (tmp_path / "wrapped").exists()


def test_saved_configuration_names_the_class(run, stock_folder, tmp_path):
    assert run("wrap", stock_folder, tmp_path / "wrapped")[0] == 0
    config = json.loads((tmp_path / "wrapped" / "config.json").read_text())
    assert config["architectures"] == [MODEL_CLASSES[stock_folder.name].__name__]
    assert config["arrcoc_config"]["policy"] == "lod"


def test_learned_parts_are_added(stock_folder, tmp_path, capsys):
    out = tmp_path / "wrapped"
    settings = ["scout_dim=32", "tiers=[16, 64]", "salience_weight=null", "relaxation=gumbel", "relevance_floor=0.1"]
    wrap(str(stock_folder), out, settings=settings, stage="pixels", relevance="learned", cell_encoder="scout")
    text = capsys.readouterr().out
    block = AutoConfig.from_pretrained(out).arrcoc_config
    assert (block.stage, block.relevance, block.cell_encoder) == ("pixels", "learned", "scout")
    assert (block.scout_dim, block.tiers, block.salience_weight) == (32, [16, 64], None)
    assert (block.relaxation, block.relevance_floor) == ("gumbel", 0.1)
    model = AutoModelForImageTextToText.from_pretrained(out)
    parameters = sum(parameter.numel() for parameter in model.model.arrcoc.parameters())
    assert f"stage pixels, policy lod, {parameters:,} untrained parameters in scout, relevance" in text
    assert model.model.arrcoc.scout.embed.weight.shape[0] == 32


def test_wrapping_for_compressor_and_adapter(stock_folder, tmp_path, capsys):
    out = tmp_path / "wrapped"
    wrap(str(stock_folder), out, compressor="experts", adapter="quality", settings=["adapter_blocks=2"])
    assert "untrained parameters in compressors, adapter" in capsys.readouterr().out
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.config.arrcoc_config.adapter_blocks == 2
    wrap(str(out), tmp_path / "without", compressor="mean", adapter="none")
    assert "nothing to train" in capsys.readouterr().out
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "without").model.arrcoc is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["max_levels=2"], "found the setting 'max_levels=2'; expected name=value with one of stage, policy"),
        (["max_level"], "found the setting 'max_level'"),
        (["transformers_version=5"], "found the setting 'transformers_version=5'"),
        (["seed=1", "seed=2"], "seed is set twice"),
        (["policy=tiers"], "policy: given by --set and by an option of its own"),
        (["max_level=two"], "'max_level' expected int"),
        (["max_level=-1"], "`max_level` is -1"),
        (["adapter=best"], "`adapter` is 'best'"),
    ],
    ids=str,
)
def test_settings_are_checked(stock_folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        wrap(str(stock_folder), tmp_path / "wrapped", settings=settings, policy="lod")
    assert not (tmp_path / "wrapped").exists()
