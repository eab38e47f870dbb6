"""The run directory of a card; its layout and the reading of strangers' files live in `records`."""

from surefoot.records.rundir import SCHEMA, RunDir, RunReader, is_writer

__all__ = ["SCHEMA", "RunDir", "RunReader", "is_writer"]
