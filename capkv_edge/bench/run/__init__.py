"""What all measurements stand on: setups, contexts, rows. Knows nothing of tasks, measures or reports."""
