"""When does it appear? A training run followed by its snapshots."""
