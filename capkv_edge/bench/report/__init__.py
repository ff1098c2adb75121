"""From rows to tables, sentences, plots and pages. Knows rows and the records in kinds.py, and measures nothing."""
