"""The twin: traces and what-ifs, played through the very code that plans, on a virtual clock."""
