"""Texts that are read and questions about them. Knows nothing of models, measures or reports."""
