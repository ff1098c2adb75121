"""What all measurements stand on: setups, contexts on a model, rows. Knows nothing of tasks, measures or reports."""
