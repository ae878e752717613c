"""`arrcoc demo`: the bundled model answers about the bundled form at several budgets, and shows where it looked."""

from importlib.resources import files
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .ask import Reply, respond
from .checkpoints import BUNDLED, checkpoint_folder, load_model, load_processor
from .files import save_picture
from .viewer import draw_report


FORM = "demo_form.png"
QUESTIONS = tuple(f'What is written next to "{key}"?' for key in ("Until", "Berth", "Fee"))
BUDGETS: tuple[float, ...] = (1.0, 0.25, 0.1)
MAX_NEW_TOKENS = 32


def demo(out: Path, model: str = BUNDLED) -> None:
    """Ask each question at each budget, print the answers, and write `OUT/question_N.png`: where the last one looked.

    Args:
        out (`Path`): folder to write to.
        model (`str`): checkpoint folder, or its name; the bundled one by default.

    Raises:
        OSError, ValueError: if the checkpoint cannot be read, or a picture not written.
    """
    folder = checkpoint_folder(model)
    network, processor = load_model(folder).eval(), load_processor(folder)
    with files("arrcoc").joinpath("assets", FORM).open("rb") as file, Image.open(file) as image:
        picture = image.convert("RGB")
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(QUESTIONS) * len(BUDGETS), desc="asking", delay=2, leave=False) as bar:
        respond(network, processor, picture, QUESTIONS[0], BUDGETS[0], 1)  # the first call is slower than all others
        for number, question in enumerate(QUESTIONS, 1):
            replies = []
            for budget in BUDGETS:
                replies.append(respond(network, processor, picture, question, budget, MAX_NEW_TOKENS))
                bar.update()
            path = out / f"question_{number}.png"
            save_picture(draw_report(picture, replies[-1].allocation, question), path)
            tqdm.write(describe(question, replies, path))


def describe(question: str, replies: list[Reply], path: Path) -> str:
    """The answers to a question as lines of text."""
    lines = [question]
    for reply in replies:
        tokens = f"{int(reply.allocation.budgets[0])} of {int(reply.allocation.cells_per_image[0])} tokens"
        lines.append(f"  {tokens:>18} {1000 * reply.seconds:5.0f} ms   {reply.answer}")
    lines.append(f"  where the last one looked: {path}")
    return "\n".join(lines)
