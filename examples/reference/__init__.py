"""Parts of `train_reference.py`: a small Qwen-VL with ARR-COC, trained from nothing on synthetic documents."""
