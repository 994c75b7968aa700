-- An output index of schema version 1, dumped after that version's own code had filled it:
-- six simulations in two chunks, one settled; 0 complete, 2 failed once, 4 running.
CREATE SCHEMA airflow_ensemble;
CREATE TABLE airflow_ensemble.batches (
    id text NOT NULL,
    ensemble integer NOT NULL,
    key text NOT NULL,
    backend text DEFAULT ''::text NOT NULL,
    generation integer NOT NULL,
    opened integer DEFAULT 0 NOT NULL,
    scope text NOT NULL,
    created double precision NOT NULL
);
CREATE TABLE airflow_ensemble.chunks (
    id text NOT NULL,
    batch text NOT NULL,
    number integer NOT NULL,
    size integer NOT NULL,
    resource_class text NOT NULL,
    submission integer NOT NULL,
    state text NOT NULL
);
CREATE TABLE airflow_ensemble.edges (
    ensemble integer NOT NULL,
    upstream text NOT NULL,
    downstream text NOT NULL
);
CREATE TABLE airflow_ensemble.ensembles (
    number integer NOT NULL,
    name text NOT NULL,
    settings_hash text NOT NULL,
    output text NOT NULL,
    recipe text NOT NULL,
    max_attempts integer NOT NULL,
    max_interruptions integer NOT NULL,
    generation integer DEFAULT 1 NOT NULL,
    next_position bigint DEFAULT 0 NOT NULL,
    created double precision NOT NULL
);
ALTER TABLE airflow_ensemble.ensembles ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME airflow_ensemble.ensembles_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE airflow_ensemble.failed_attempts (
    ensemble integer NOT NULL,
    id text NOT NULL,
    attempt integer NOT NULL,
    token text NOT NULL,
    generation integer NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    host text NOT NULL,
    log text,
    started double precision NOT NULL,
    duration double precision NOT NULL
);
CREATE TABLE airflow_ensemble.meta (
    name text NOT NULL,
    value text NOT NULL
);
CREATE TABLE airflow_ensemble.segments (
    ensemble integer NOT NULL,
    name text NOT NULL,
    consumed bigint NOT NULL
);
CREATE TABLE airflow_ensemble.simulations (
    ensemble integer NOT NULL,
    "position" bigint NOT NULL,
    id text NOT NULL,
    digest text NOT NULL,
    resources text NOT NULL,
    resource_class text NOT NULL,
    time_limit double precision,
    priority integer NOT NULL,
    unmet integer DEFAULT 0 NOT NULL,
    status text NOT NULL,
    generation integer NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    interruptions integer DEFAULT 0 NOT NULL,
    registered_by text NOT NULL,
    batch text,
    chunk text,
    worker text,
    token text,
    reason text,
    detail text DEFAULT ''::text NOT NULL,
    host text DEFAULT ''::text NOT NULL,
    log text,
    started double precision,
    duration double precision,
    updated double precision NOT NULL,
    result_generation integer,
    n_empty integer DEFAULT 0 NOT NULL,
    result_params text,
    params text NOT NULL,
    products text
);
CREATE TABLE airflow_ensemble.workers (
    id text NOT NULL,
    ensemble integer NOT NULL,
    host text NOT NULL,
    lease double precision NOT NULL,
    expires double precision NOT NULL
);
INSERT INTO airflow_ensemble.batches VALUES ('4c0b8df751', 1, 'b', 'local', 1, 0, '4c0b8df751', 1795256104.246144);
INSERT INTO airflow_ensemble.chunks VALUES ('4c0b8df751-0000', '4c0b8df751', 0, 3, '', 1, 'open');
INSERT INTO airflow_ensemble.chunks VALUES ('4c0b8df751-0001', '4c0b8df751', 1, 3, '', 1, 'settled');
INSERT INTO airflow_ensemble.ensembles OVERRIDING SYSTEM VALUE VALUES (1, 'e', 'b435d53ed6a8fc0c', '/output/e', '{"code":[],"ensemble":"e","limits":{"max_attempts":3,"max_interruptions":20},"logs":"failed","output":"/output/e","settings":{"command":[],"model":"m:f","model_version":"","parameters":{},"products":[{"glob":null,"name":"p","optional":false}],"seed":0},"time_limit":null}', 3, 20, 1, 6, 1795256104.239774);
INSERT INTO airflow_ensemble.failed_attempts VALUES (1, '2', 1, 't', 1, 'error', 'it was error', 'host', 'logs/x.log', 100, 2.5);
INSERT INTO airflow_ensemble.meta VALUES ('uuid', 'd3a82a6a375e4086b2152263925e64c2');
INSERT INTO airflow_ensemble.meta VALUES ('schema', '1');
INSERT INTO airflow_ensemble.segments VALUES (1, 'a.jsonl', 77);
INSERT INTO airflow_ensemble.simulations VALUES (1, 4, '4', '5edc112eb7766a0b', '{}', '', NULL, 0, 0, 'running', 1, 1, 0, 0, '4c0b8df751', '4c0b8df751', '4c0b8df751-0000', NULL, 't', NULL, '', 'host', NULL, 100, NULL, 1795256104.254176, NULL, 0, NULL, '{"x":"4"}', NULL);
INSERT INTO airflow_ensemble.simulations VALUES (1, 0, '0', 'ac34341052287fc9', '{}', '', NULL, 0, 0, 'complete', 1, 1, 0, 0, '4c0b8df751', '4c0b8df751', '4c0b8df751-0000', NULL, 't', NULL, '', 'host', NULL, 100, 2.5, 1795256104.254176, 1, 0, NULL, '{"x":"0"}', '[{"name":"p","status":"complete","path":"ab/p/x.nc","size":12,"checksum":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}]');
INSERT INTO airflow_ensemble.simulations VALUES (1, 2, '2', '17deda9ec2ab3355', '{}', '', NULL, 0, 0, 'dispatched', 1, 1, 1, 0, '4c0b8df751', '4c0b8df751', '4c0b8df751-0000', NULL, NULL, 'error', 'it was error', 'host', 'logs/x.log', 100, 2.5, 1795256104.254176, NULL, 0, NULL, '{"x":"2"}', NULL);
INSERT INTO airflow_ensemble.simulations VALUES (1, 1, '1', '013bdcb2b4d38b7d', '{}', '', NULL, 0, 0, 'pending', 1, 1, 0, 0, '4c0b8df751', NULL, NULL, NULL, NULL, NULL, '', '', NULL, NULL, NULL, 1795256104.258522, NULL, 0, NULL, '{"x":"1"}', NULL);
INSERT INTO airflow_ensemble.simulations VALUES (1, 3, '3', '1dc5026703dce350', '{}', '', NULL, 0, 0, 'pending', 1, 1, 0, 0, '4c0b8df751', NULL, NULL, NULL, NULL, NULL, '', '', NULL, NULL, NULL, 1795256104.258522, NULL, 0, NULL, '{"x":"3"}', NULL);
INSERT INTO airflow_ensemble.simulations VALUES (1, 5, '5', '8d0ec95c41242a20', '{}', '', NULL, 0, 0, 'pending', 1, 1, 0, 0, '4c0b8df751', NULL, NULL, NULL, NULL, NULL, '', '', NULL, NULL, NULL, 1795256104.258522, NULL, 0, NULL, '{"x":"5"}', NULL);
SELECT pg_catalog.setval('airflow_ensemble.ensembles_number_seq', 1, true);
ALTER TABLE ONLY airflow_ensemble.batches
    ADD CONSTRAINT batches_pkey PRIMARY KEY (id);
ALTER TABLE ONLY airflow_ensemble.chunks
    ADD CONSTRAINT chunks_batch_number_key UNIQUE (batch, number);
ALTER TABLE ONLY airflow_ensemble.chunks
    ADD CONSTRAINT chunks_pkey PRIMARY KEY (id);
ALTER TABLE ONLY airflow_ensemble.edges
    ADD CONSTRAINT edges_pkey PRIMARY KEY (ensemble, upstream, downstream);
ALTER TABLE ONLY airflow_ensemble.ensembles
    ADD CONSTRAINT ensembles_name_settings_hash_key UNIQUE (name, settings_hash);
ALTER TABLE ONLY airflow_ensemble.ensembles
    ADD CONSTRAINT ensembles_pkey PRIMARY KEY (number);
ALTER TABLE ONLY airflow_ensemble.failed_attempts
    ADD CONSTRAINT failed_attempts_pkey PRIMARY KEY (ensemble, id, attempt, token);
ALTER TABLE ONLY airflow_ensemble.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (name);
ALTER TABLE ONLY airflow_ensemble.segments
    ADD CONSTRAINT segments_pkey PRIMARY KEY (ensemble, name);
ALTER TABLE ONLY airflow_ensemble.simulations
    ADD CONSTRAINT simulations_pkey PRIMARY KEY (ensemble, "position");
ALTER TABLE ONLY airflow_ensemble.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);
CREATE INDEX chunks_open ON airflow_ensemble.chunks USING btree (batch) WHERE (state = 'open'::text);
CREATE INDEX simulations_chunk ON airflow_ensemble.simulations USING btree (chunk, registered_by, status, reason, n_empty, result_generation) WHERE (chunk IS NOT NULL);
CREATE INDEX simulations_count ON airflow_ensemble.simulations USING btree (ensemble, registered_by, status, reason, n_empty, result_generation);
CREATE UNIQUE INDEX simulations_id ON airflow_ensemble.simulations USING btree (ensemble, id);
CREATE INDEX simulations_pending ON airflow_ensemble.simulations USING btree (ensemble, tries, priority DESC, "position") WHERE (status = 'pending'::text);
CREATE INDEX simulations_worker ON airflow_ensemble.simulations USING btree (worker) WHERE ((worker IS NOT NULL) AND (status = ANY (ARRAY['dispatched'::text, 'running'::text])));
