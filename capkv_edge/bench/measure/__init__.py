"""The measurements: each module turns an engine, setups and texts into rows."""
