#!/bin/sh
# The ladder of proof on the bundled reference: what each part of ARR-COC brings at equal tokens. The same
# command goes on where it was cut off, and `arrcoc report` makes pages of what it measured.
#
#   sh examples/ladder.sh [FOLDER]    # runs/ladder
#
# From a fixed resize over the heuristic of two budgets and ARR-COC as it is to parts that are trained on it while all
# other weights stand still: adapter, adapter whose tokens are pulled to the host's own statistics, experts, and a
# learned budget with a price on tokens, beside one calibrated on validation pages. Then each option that needs no
# training, switched.
set -eu
cd "$(dirname "$0")/.."
out=${1:-runs/ladder}
questions=${QUESTIONS:-1230}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

pages="size=256,kinds=form+receipt+invoice+table,clear"  # held-out ones, if no other split is named
data="$out/data"
test -e "$data/train.jsonl" || arrcoc synth --out "$data" --n 3000 --size 256 --kinds form receipt invoice table --clear

train() {
    name=$1
    shift
    test -d "$out/$name/merged" || arrcoc train examples/configs/reference_rung.yaml "out=$out/$name" \
        "data.train=$data/train.jsonl" "$@"
}
train adapter block.adapter=quality 'phases.part.trains=[adapter]'
train matched block.adapter=quality 'phases.part.trains=[adapter]' \
    'phases.part.loss_weights={answer: 1.0, distribution: 0.1}'
train experts block.compressor=experts 'phases.part.trains=[compressor]'
train learned block.budget=learned 'block.tiers=[12, 25, 64, 121, 256]' processor.token_budget=learned \
    'phases.part.trains=[allocator]' 'phases.part.loss_weights={answer: 1.0, efficiency: 0.1}' \
    phases.part.budgets=null  # no loss reaches relevance: its evidence here is the answer's box without its label

evaluate() {
    name=$1
    shift
    torchrun --nproc_per_node 2 -m arrcoc_cli eval --data "synthetic:3000,$pages" --questions "$questions" \
        --batch-size 32 --max-new-tokens 48 --out "$out/$name" "$@"
}
# What was trained is in float32 and is read with less error for that: `float32` is the checkpoint as it is, beside it.
test -d "$out/no-deepstack" || python - "$out" <<'END'
import copy
import sys

import arrcoc

model, processor = arrcoc.reference("tiny")
exact, even, shallow = copy.deepcopy(model).float(), copy.deepcopy(model), model
for parameter in even.model.arrcoc.relevance.balance.balance.parameters():
    parameter.data.zero_()  # every balance at 1/2
for merger in shallow.model.visual.deepstack_merger_list:
    for parameter in merger.linear_fc2.parameters():
        parameter.data.zero_()  # nothing of the tower's earlier layers
for name, variant in (("float32", exact), ("no-balance", even), ("no-deepstack", shallow)):
    variant.save_pretrained(f"{sys.argv[1]}/{name}")
    processor.save_pretrained(f"{sys.argv[1]}/{name}")
END
evaluate rungs --model arrcoc-tiny --budgets 64,25,auto:two_mode \
    --policies resize,arrcoc-uniform,arrcoc,arrcoc:float32,arrcoc:adapter,arrcoc:matched,arrcoc:experts \
    --variant "float32:model=$out/float32" --variant "adapter:model=$out/adapter/merged" --variant "matched:model=$out/matched/merged" \
    --variant "experts:model=$out/experts/merged"
test -e "$out/calibration/calibration.json" || arrcoc calibrate --model "$out/learned/merged" --out "$out/calibration" \
    --data "synthetic:1500,$pages,split=validation" --n 600 --budgets 12,25,40,64,90,121 --keep 0.95 \
    --batch-size 32 --max-new-tokens 48
evaluate learned-budget --model "$out/learned/merged" --budgets learned,auto:calibrated,auto:two_mode,64,25 \
    --policies arrcoc,resize
policies="arrcoc,arrcoc-lod,arrcoc-tiers,arrcoc-topk,arrcoc-uniform,arrcoc-random"
evaluate options --model arrcoc-tiny --budgets 64,25,12 \
    --policies "$policies,arrcoc:no-question,arrcoc:no-information,arrcoc:salience,arrcoc:no-balance,arrcoc:no-deepstack,arrcoc:no-spread,arrcoc:wide-spread,arrcoc:no-threshold,arrcoc:no-pairs,arrcoc:coarse-grid,arrcoc:more-context,arrcoc:matched-positions,arrcoc:after-the-tower" \
    --variant no-question:query_weight=0 --variant no-information:information_weight=0 \
    --variant salience:salience_weight=1 --variant "no-balance:model=$out/no-balance" \
    --variant "no-deepstack:model=$out/no-deepstack" \
    --variant no-spread:relevance_spread=0 --variant wide-spread:relevance_spread=1 \
    --variant no-threshold:fovea_threshold=0 --variant no-pairs:pair_worth=null --variant coarse-grid:context_share=0.1 --variant more-context:context_share=0.3 \
    --variant matched-positions:position_scale=matched --variant after-the-tower:stage=features,pair_drawing=shrunk
