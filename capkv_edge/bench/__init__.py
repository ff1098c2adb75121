"""What is lost and what is gained at a budget: quality, memory and speed against the full cache of the same quantized model."""
