"""What is read and asked: texts and questions. Knows nothing of models, measures or reports."""
