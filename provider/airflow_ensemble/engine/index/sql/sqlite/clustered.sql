-- The rows lie in table order in the primary key's own tree: one tree less to keep.
WITHOUT ROWID
