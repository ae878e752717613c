#!/bin/sh
# All phases of training, from a host with random weights to a model whose gates have all passed: minutes on two cores.
#
#   sh examples/train_phases.sh [FOLDER]    # runs/tiny; the same command goes on where it was cut off
#
# Pictures have 16 cells and get 7 tokens, so that one quarter of a picture can be seen in full detail. The gates:
# relevance finds the right quarter in 90 % of the pictures (phase 0, from evidence); then the loss of answers at that
# budget falls (phase 1); then, where next to none of it is left, 95 % of the answers are right word for word.
set -eu
cd "$(dirname "$0")/.."
out=${1:-runs/tiny}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

data="$out/data"
test -e "$data/validation.jsonl" || python examples/tiny_marks.py --out "$out"
arrcoc train examples/configs/host_tiny.yaml "model=$out/host" "out=$out/taught" \
    "data.train=$data/train.jsonl" "data.eval=$data/validation.jsonl"
arrcoc train examples/configs/phase3_tiny.yaml "model=$out/taught/merged" "out=$out/phases" processor.token_budget=7 \
    "data.train=$data/train.jsonl" "data.eval=$data/validation.jsonl" data.eval_rows=128 \
    arguments.per_device_train_batch_size=16 \
    phases.phase0.steps=100 phases.phase0.gate.threshold=0.9 \
    phases.phase1.steps=100 phases.phase2.steps=80 phases.phase3.steps=80 \
    'phases.phase2.gate={metric: exact, threshold: 0.95, direction: at_least, relative: false}' \
    'phases.phase3.gate={metric: exact, threshold: 0.95, direction: at_least, relative: false}'
