"""The plugin of the command `llm`, which its entry point names."""
