"""`Llama`. Each file holds one thing that it does in another way than llama_cpp: reading, completions, drafts, states, sessions."""
