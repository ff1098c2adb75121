"""`capkv-bench quick`: one page about a user's own model, measured within a time limit. Uses the kinds fidelity and speed."""
