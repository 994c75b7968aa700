-- Schema version 2: array jobs of a cluster.

-- One row for each array job. `serial` is the order in which the intents were entered.
CREATE TABLE jobs (
    serial @serial,
    name TEXT NOT NULL UNIQUE,
    batch TEXT NOT NULL,
    number INTEGER NOT NULL,
    place TEXT NOT NULL,
    folder TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    deadline DOUBLE PRECISION NOT NULL DEFAULT 0,
    job_id TEXT,
    submitted DOUBLE PRECISION,
    created DOUBLE PRECISION NOT NULL,
    UNIQUE (batch, number)
);

-- One row for each submission of a chunk to a cluster. The key is what keeps a submission to one
-- job, whoever asks for it, and how often.
CREATE TABLE elements (
    chunk TEXT NOT NULL,
    submission INTEGER NOT NULL,
    job TEXT NOT NULL,
    element INTEGER NOT NULL,
    ending TEXT,
    detail TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (chunk, submission),
    UNIQUE (job, element)
);
