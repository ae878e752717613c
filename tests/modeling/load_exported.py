"""Run in a fresh interpreter by test_remote_code.py: load exported folders where `arrcoc` cannot be imported.

Usage: python load_exported.py IN OUT

IN holds for each host the folders `head` and `base`, and `inputs.pt`. For each host, OUT gets `results.pt` and the
folder `again`, into which the loaded model and processor were saved.
"""

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class Blocker(MetaPathFinder):
    """Makes the installed package invisible."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "arrcoc":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Blocker())

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor  # noqa: E402


def refusal(load, folder: Path) -> str:
    """The message with which code is refused that nobody said to trust."""
    try:
        load.from_pretrained(folder)
    except ValueError as error:
        return str(error)
    return ""


@torch.no_grad()
def load(source: Path, target: Path) -> None:
    inputs = torch.load(source / "inputs.pt")
    results = {"refusals": {}, "modules": {}}
    for auto in (AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor):
        results["refusals"][auto.__name__] = refusal(auto, source / "head")

    config = AutoConfig.from_pretrained(source / "head", trust_remote_code=True)
    results["modules"]["config"] = type(config).__module__
    results["policy"] = config.arrcoc_config.policy
    for name in ("head", "base"):
        base = AutoModel.from_pretrained(source / name, trust_remote_code=True)
        results[f"{name} as base"] = base(**inputs).last_hidden_state
    head = AutoModelForImageTextToText.from_pretrained(source / "head", trust_remote_code=True)
    results["modules"]["head"] = type(head).__module__
    outputs = head(**inputs)
    results["logits"], results["boxes"] = outputs.logits, outputs.allocation.boxes
    results["generated"] = head.generate(**inputs, max_new_tokens=4, do_sample=False)

    processor = AutoProcessor.from_pretrained(source / "head", trust_remote_code=True)
    results["modules"]["processor"] = type(processor).__module__
    image = Image.linear_gradient("L").resize((192, 128))
    text = f"<|im_start|>user\n<|vision_start|>{processor.image_token}<|vision_end|>Where?<|im_end|>\n"
    results["processed"] = dict(processor(images=image, text=text, return_tensors="pt"))

    head.save_pretrained(target / "again")
    processor.save_pretrained(target / "again")
    torch.save(results, target / "results.pt")


if __name__ == "__main__":
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        out = Path(sys.argv[2]) / folder.name
        out.mkdir(parents=True)
        load(folder, out)
    assert not [name for name in sys.modules if name.split(".")[0] == "arrcoc"]
