"""The recipe novels_l4_h256 with one change at a time: what reaches its held-out loss sooner?

    bertjax pretrain experiments/speedrun.py --workdir runs/speedrun/classic
    bertjax pretrain experiments/speedrun.py --workdir runs/speedrun/muon --optimizer.name muon

`CHANGES` has the flags of each row; benchmarks/speedrun.py prepares the text, trains the rows and
keeps their losses. docs/speedrun.md has the rules and the results.

Hardware: two CPU cores.
Result: docs/speedrun.md.
"""

import dataclasses
import runpy
from pathlib import Path

NOVELS = runpy.run_path(str(Path(__file__).with_name("novels_l4_h256.py")))["config"]

config = dataclasses.replace(NOVELS, workdir="runs/speedrun")

CHANGES = {
    "classic": "",
    "rate_15": "--masking.rate 0.15",
    "rate_40": "--masking.rate 0.4",
    "mask_only": "--masking.mask-prob 1 --masking.random-prob 0",
    "muon": "--optimizer.name muon --optimizer.learning-rate 2e-3",
    "stable_adamw": "--optimizer.name stable_adamw --optimizer.clip-norm 0",
    "falling_rate": "--final-masking-rate 0.15",
    "ramp": "--ramp-from 8 --ramp-steps 1200",
    "z_loss": "--z-loss 1e-4",
    "no_nsp": "--objective mlm",
    "causal": "--objective mlm --causal-share 0.0625",
    "glu": "--model.glu True --model.intermediate-size 688",  # as many FLOPs as 1,024 without gates
    "pre_norm": "--model.norm-placement pre",
    "rotary": "--model.position-embedding-type rotary --initialization.positions random"
    " --initialization.attention random",
}
