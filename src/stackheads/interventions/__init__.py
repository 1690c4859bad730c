"""What happens if: ablate heads, patch their outputs, change one attended source, substitute a pattern."""

from stackheads.interventions.ablation import ABLATIONS, ablate, ablate_heads, ablation_edits
from stackheads.interventions.activations import Recorded, destination_rows
from stackheads.interventions.engine import replayable, rerun, run_variants, sweep_positions
from stackheads.interventions.onward import edited_run, onward
from stackheads.interventions.patching import patch, patch_heads, patch_heads_by_position, source_edit, source_mask
from stackheads.interventions.paths import INPUTS, Sender, direct_logits, path_edits, receiver_outputs
from stackheads.interventions.proof import recorded
from stackheads.interventions.substitution import pattern_edit, substitute_patterns

__all__ = [
    "ABLATIONS",
    "INPUTS",
    "Recorded",
    "Sender",
    "ablate",
    "ablate_heads",
    "ablation_edits",
    "destination_rows",
    "direct_logits",
    "edited_run",
    "onward",
    "patch",
    "patch_heads",
    "patch_heads_by_position",
    "path_edits",
    "pattern_edit",
    "receiver_outputs",
    "recorded",
    "replayable",
    "rerun",
    "run_variants",
    "source_edit",
    "source_mask",
    "substitute_patterns",
    "sweep_positions",
]
