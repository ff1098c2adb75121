"""A copy of a GGUF model in f32 or f16: the same weights, but no quantized kernel rounds, or is slow."""

from pathlib import Path

import gguf
import numpy as np

F16, F32 = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32


def write_f32(source: Path, target: Path) -> Path:
    """All weights in f32."""
    return _write(source, target, np.float32, F32, gguf.LlamaFileType.ALL_F32)


def write_f16(source: Path, target: Path) -> Path:
    """The matrices in f16, the vectors (norms) in f32, as llama.cpp's own f16 files."""
    return _write(source, target, np.float16, F16, gguf.LlamaFileType.MOSTLY_F16)


def _write(source: Path, target: Path, kind, ggml_kind, file_type) -> Path:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        of = field.types[0]
        sub = field.types[-1] if of == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), of, sub_type=sub)
    writer.add_file_type(file_type)
    for t in reader.tensors:
        data = gguf.quants.dequantize(t.data, t.tensor_type)
        if data.ndim == 1:
            writer.add_tensor(t.name, np.ascontiguousarray(data, np.float32), raw_dtype=F32)
        else:
            writer.add_tensor(t.name, np.ascontiguousarray(data, kind), raw_dtype=ggml_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
