"""`capkv-inspect`: reads a text or a session, records what each KV head holds, and writes it as one HTML page."""
