"""Formats and samples. Names are loaded on first use."""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "linear_model": ["LinearModel"],
        "sampler": ["Sampler"],
        "samples": ["PackagedFile", "SampleMissingError", "packaged"],
        "tables": ["NumericTable", "TableStream", "from_frame", "read_table", "stream_table"],
    },
)
