"""Models without their hooks: fast forwards, and runs taken up from the middle."""
