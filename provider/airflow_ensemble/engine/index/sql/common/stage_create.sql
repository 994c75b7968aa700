CREATE TEMPORARY TABLE stage (
    n BIGINT NOT NULL,
    id TEXT NOT NULL,
    params TEXT NOT NULL,
    digest TEXT NOT NULL,
    resources TEXT NOT NULL,
    resource_class TEXT NOT NULL,
    time_limit DOUBLE PRECISION,
    priority INTEGER NOT NULL
)
