"""The output index: one interface, SQLite and PostgreSQL behind it."""
