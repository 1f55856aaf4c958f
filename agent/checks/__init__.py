"""Everything that could fail later, looked at before the first write."""
