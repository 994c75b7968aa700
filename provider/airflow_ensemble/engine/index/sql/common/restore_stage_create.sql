CREATE TEMPORARY TABLE stage_finished (
    n BIGINT NOT NULL,
    id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    token TEXT NOT NULL,
    started DOUBLE PRECISION NOT NULL,
    host TEXT NOT NULL,
    duration DOUBLE PRECISION NOT NULL,
    log TEXT,
    products TEXT NOT NULL,
    n_empty INTEGER NOT NULL,
    reason TEXT,
    kind TEXT,
    detail TEXT NOT NULL,
    generation INTEGER NOT NULL,
    params TEXT NOT NULL,
    digest TEXT NOT NULL
)
