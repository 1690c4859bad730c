"""The evidence and the verdict: which head does what, and how sure that is."""
