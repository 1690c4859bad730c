"""Does the labeller tell the truth? Known circuits, nulls, calibration."""
