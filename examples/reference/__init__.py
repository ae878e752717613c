"""Parts of `train_reference.py`: a small Qwen3-VL with ARR-COC, trained from nothing on synthetic documents."""
