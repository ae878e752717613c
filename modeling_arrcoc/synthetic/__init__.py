"""Synthetic documents with questions, answers and evidence boxes.

>>> from arrcoc.synthetic import generate
>>> document = generate(seed=7, kinds=("form",), size=512)
>>> document.image.size
(512, 512)
"""

from .asking import suggested_budget
from .dataset import DocumentStream, rows
from .document import DIFFICULTIES, KINDS, QUESTION_KINDS, SPLITS, Document, Question, Word
from .fonts import Face, available_fonts, bundled_face
from .generator import generate


__all__ = [
    "DIFFICULTIES",
    "KINDS",
    "QUESTION_KINDS",
    "SPLITS",
    "Document",
    "DocumentStream",
    "Face",
    "Question",
    "Word",
    "available_fonts",
    "bundled_face",
    "generate",
    "rows",
    "suggested_budget",
]
