"""Where state lives: one file per database, the same tables and queries below all of them."""
