#pragma once

// open ggml's backends where they are libraries of their own (GGML_BACKEND_DL) and none is open: those beside this libllama, and of the
// CPU backends there the one that fits this processor best. ggml itself looks beside the program, which may be Python.
// if there are none, ggml's own search goes on
void capkv_load_backends(void);
