"""`Llama`, one file for each thing that it does in its own way: reading, completions, drafts, states, sessions."""
