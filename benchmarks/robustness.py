"""Write four sets of rows that are harder than usual for what chooses where to look and how much, for `arrcoc eval`.

    python benchmarks/robustness.py --out runs/robustness/data
    arrcoc eval --model arrcoc-tiny --metric exact_match --batch-size 32 --budgets 1.0,0.25,0.1 \\
        --policies arrcoc,resize --questions 500 --out runs/robust --data runs/robustness/data/*.jsonl
    arrcoc report runs/robust --markdown docs/robustness.md

All are of held-out synthetic documents:

- `busy_page_short_question`: of the third of the pages with the most words, the question with the fewest.
- `plain_page_long_question`: of the third with the fewest words, the question with the most.
- `ambiguous`: a key of several words, of which the question tells the first alone: "BILL" for "BILL TO".
- `misleading`: busy pages, a question about a printed text that begins with "Explain simply: ", as if for a summary.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arrcoc.cli.files import replaced_folder
from arrcoc.evaluation.documents import read_documents
from arrcoc.synthetic import Document, Question
from arrcoc.synthetic.dataset import rows as document_rows


DOCUMENTS = "size=256,kinds=form+receipt+invoice+table,split=heldout,clear"
PREFIX = "Explain simply: "


def length(text: str) -> int:
    return len(text.split())


def asked(document: Document, question: Question, text: str, image: str) -> dict[str, Any]:
    """The row of a question, asked in other words."""
    return document_rows(document, image)[document.questions.index(question)] | {"question": text}


def printed(document: Document) -> list[Question]:
    """Questions whose answers stand on the page."""
    return [question for question in document.questions if question.evidence and question.kind != "exists"]


def key_of(document: Document, question: Question) -> list[str]:
    """Words of the key that a question names."""
    return [
        word.text
        for word in document.words
        for left, top, right, bottom in question.key_boxes
        if left <= sum(word.box[0::2]) / 2 <= right and top <= sum(word.box[1::2]) / 2 <= bottom
    ]


def sets_of(documents: Sequence[Document]) -> dict[str, list[tuple[Document, dict[str, Any]]]]:
    """Rows of each set, with their documents."""
    by_words = sorted(documents, key=lambda document: len(document.words))
    third = len(by_words) // 3
    plain, busy = by_words[:third], by_words[-third:]
    found: dict[str, list[tuple[Document, dict[str, Any]]]] = {
        name: [] for name in ("busy_page_short_question", "plain_page_long_question", "ambiguous", "misleading")
    }

    def add(name: str, document: Document, question: Question, text: str) -> None:
        image = f"images/{document.seed:05d}.png"
        found[name].append((document, asked(document, question, text, image)))

    for document in busy:
        if questions := printed(document):
            shortest = min(questions, key=lambda question: length(question.text))
            add("busy_page_short_question", document, shortest, shortest.text)
            add("misleading", document, questions[0], PREFIX + questions[0].text)
    for document in plain:
        if questions := printed(document):
            longest = max(questions, key=lambda question: length(question.text))
            add("plain_page_long_question", document, longest, longest.text)
    for document in documents:
        for question in document.questions:
            key = key_of(document, question)
            if question.kind == "key_value" and len(key) > 1:
                add("ambiguous", document, question, key[0].rstrip(":"))
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--documents", type=int, default=1600)
    options = parser.parse_args()
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise FileExistsError(f"{options.out} exists and is not an empty folder")
    found = sets_of(list(read_documents(f"{options.documents},{DOCUMENTS}")))
    with replaced_folder(options.out) as folder:
        (folder / "images").mkdir()
        for name, pairs in found.items():
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for document, row in pairs:
                    document.image.save(folder / row["image"])
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(f"{name}: {len(pairs)} questions")


if __name__ == "__main__":
    main()
