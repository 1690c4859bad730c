"""Hand-wired circuits whose labels are known by construction."""
