-- Schema version 1.
--
-- JSON stands in TEXT columns: it is only ever read whole, and text costs no parsing on the way in.

CREATE TABLE ensembles (
    number @serial,
    name TEXT NOT NULL,
    settings_hash TEXT NOT NULL,
    output TEXT NOT NULL,
    recipe TEXT NOT NULL,
    max_attempts INTEGER NOT NULL,
    max_interruptions INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    next_position BIGINT NOT NULL DEFAULT 0,
    created DOUBLE PRECISION NOT NULL,
    UNIQUE (name, settings_hash)
);

CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    ensemble INTEGER NOT NULL,
    key TEXT NOT NULL,
    backend TEXT NOT NULL DEFAULT '',
    generation INTEGER NOT NULL,
    -- 1 once the batch has opened a generation for `skip_existing: false`: its retries stay in it.
    opened INTEGER NOT NULL DEFAULT 0,
    -- Whose rows this batch is judged by: its own, or, when it found exactly another batch's rows
    -- and all of them finished, that one's. A night with nothing to do then writes no row.
    scope TEXT NOT NULL,
    created DOUBLE PRECISION NOT NULL
);

CREATE TABLE chunks (
    id TEXT PRIMARY KEY,
    batch TEXT NOT NULL,
    number INTEGER NOT NULL,
    size INTEGER NOT NULL,
    resource_class TEXT NOT NULL,
    submission INTEGER NOT NULL,
    state TEXT NOT NULL,
    UNIQUE (batch, number)
);

CREATE INDEX chunks_open ON chunks (batch) WHERE state = 'open';

-- One row for each simulation of an ensemble with one settings hash. `position` is the order of the
-- first registration. The products of the newest complete generation are kept as JSON in the row
-- and not in a table of their own: only a complete outcome writes them, whole, in the one statement
-- that completes the row, so they can never disagree with it, a new generation keeps the older ones
-- until it completes, and recording a simulation costs one row and not one for each product.
-- `result_params` is set only where a replaced simulation still shows the result of its older
-- parameters.
CREATE TABLE simulations (
    ensemble INTEGER NOT NULL,
    position BIGINT NOT NULL,
    id TEXT NOT NULL,
    digest TEXT NOT NULL,
    resources TEXT NOT NULL,
    resource_class TEXT NOT NULL,
    time_limit DOUBLE PRECISION,
    priority INTEGER NOT NULL,
    unmet INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL,
    generation INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    registered_by TEXT NOT NULL,
    batch TEXT,
    chunk TEXT,
    worker TEXT,
    token TEXT,
    reason TEXT,
    detail TEXT NOT NULL DEFAULT '',
    host TEXT NOT NULL DEFAULT '',
    log TEXT,
    started DOUBLE PRECISION,
    duration DOUBLE PRECISION,
    updated DOUBLE PRECISION NOT NULL,
    result_generation INTEGER,
    n_empty INTEGER NOT NULL DEFAULT 0,
    result_params TEXT,
    params TEXT NOT NULL,
    products TEXT,
    PRIMARY KEY (ensemble, position)
) @clustered;

CREATE UNIQUE INDEX simulations_id ON simulations (ensemble, id);

-- The order of claims.
CREATE INDEX simulations_pending ON simulations (ensemble, tries, priority DESC, position)
    WHERE status = 'pending';

-- Answers every count, of all or of one batch, without reading the rows.
CREATE INDEX simulations_count ON simulations
    (ensemble, registered_by, status, reason, n_empty, result_generation);

-- The same for chunks. Empty until something is dispatched, so that registration does not pay.
CREATE INDEX simulations_chunk ON simulations
    (chunk, registered_by, status, reason, n_empty, result_generation) WHERE chunk IS NOT NULL;

CREATE INDEX simulations_worker ON simulations (worker)
    WHERE worker IS NOT NULL AND status IN ('dispatched', 'running');

CREATE TABLE edges (
    ensemble INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    downstream TEXT NOT NULL,
    PRIMARY KEY (ensemble, upstream, downstream)
);

CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    ensemble INTEGER NOT NULL,
    host TEXT NOT NULL,
    lease DOUBLE PRECISION NOT NULL,
    expires DOUBLE PRECISION NOT NULL
);

-- One row for each unsuccessful execution. The key makes charging a simulation idempotent.
CREATE TABLE failed_attempts (
    ensemble INTEGER NOT NULL,
    id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    token TEXT NOT NULL,
    generation INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    host TEXT NOT NULL,
    log TEXT,
    started DOUBLE PRECISION NOT NULL,
    duration DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (ensemble, id, attempt, token)
);

-- How many bytes of each outcome segment are recorded.
CREATE TABLE segments (
    ensemble INTEGER NOT NULL,
    name TEXT NOT NULL,
    consumed BIGINT NOT NULL,
    PRIMARY KEY (ensemble, name)
);
