"""capkv-serve: llama-server with a KV cache of fixed size, from one command."""
