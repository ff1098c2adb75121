"""capkv-chat: the command line, the loop over turns and commands, the terminal, and the conversation with a model."""
