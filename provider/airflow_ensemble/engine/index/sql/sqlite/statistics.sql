-- SQLite plans by statistics that somebody must collect, or by guesses that take a whole table for
-- ten rows. These are those of a large ensemble half way through, kept fixed, so that plans are the
-- same at any time: for each index the rows it holds, and how many share its first 1, 2, … columns.
ANALYZE sqlite_schema;
DELETE FROM sqlite_stat1;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('simulations', 'simulations', '1000000 1000000 1'),
    ('simulations', 'simulations_id', '1000000 1000000 1'),
    ('simulations', 'simulations_pending', '200000 200000 50000 50000 1'),
    ('simulations', 'simulations_count', '1000000 1000000 10000 2000 1500 1000 1000'),
    ('simulations', 'simulations_chunk', '500000 1000 1000 200 200 200 200'),
    ('simulations', 'simulations_worker', '1000 100'),
    ('chunks', 'chunks_open', '100 50'),
    ('failed_attempts', 'sqlite_autoindex_failed_attempts_1', '100000 100000 2 1 1');
ANALYZE sqlite_schema
