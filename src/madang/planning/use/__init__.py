"""What is held, what of it is used, and what becomes of what lies idle."""
