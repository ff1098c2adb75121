"""From rows to tables, sentences, plots and pages. Reads rows and measures nothing."""
