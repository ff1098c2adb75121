"""capkv-chat: the command, the loop, the terminal, the conversation with a model."""
