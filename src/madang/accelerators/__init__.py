"""What accelerators a node has: one probe per vendor, without side effects."""
