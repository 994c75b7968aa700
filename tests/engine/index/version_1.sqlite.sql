-- An output index of schema version 1, dumped after that version's own code had filled it:
-- six simulations in two chunks, one settled; 0 complete, 2 failed once, 4 running.
BEGIN TRANSACTION;
CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    ensemble INTEGER NOT NULL,
    key TEXT NOT NULL,
    backend TEXT NOT NULL DEFAULT '',
    generation INTEGER NOT NULL,
    
    opened INTEGER NOT NULL DEFAULT 0,
    
    
    scope TEXT NOT NULL,
    created DOUBLE PRECISION NOT NULL
);
INSERT INTO "batches" VALUES('4c0b8df751',1,'b','local',1,0,'4c0b8df751',1.79525607813700580593e+09);
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
INSERT INTO "chunks" VALUES('4c0b8df751-0000','4c0b8df751',0,3,'',1,'open');
INSERT INTO "chunks" VALUES('4c0b8df751-0001','4c0b8df751',1,3,'',1,'settled');
CREATE TABLE edges (
    ensemble INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    downstream TEXT NOT NULL,
    PRIMARY KEY (ensemble, upstream, downstream)
);
CREATE TABLE ensembles (
    number INTEGER PRIMARY KEY,
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
INSERT INTO "ensembles" VALUES(1,'e','b435d53ed6a8fc0c','/output/e','{"code":[],"ensemble":"e","limits":{"max_attempts":3,"max_interruptions":20},"logs":"failed","output":"/output/e","settings":{"command":[],"model":"m:f","model_version":"","parameters":{},"products":[{"glob":null,"name":"p","optional":false}],"seed":0},"time_limit":null}',3,20,1,6,1.79525607813499426838e+09);
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
INSERT INTO "failed_attempts" VALUES(1,'2',1,'t',1,'error','it was error','host','logs/x.log',100.0,2.5);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('uuid','e9c2ce4b67f64baaac51a5f93588d12f');
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE segments (
    ensemble INTEGER NOT NULL,
    name TEXT NOT NULL,
    consumed BIGINT NOT NULL,
    PRIMARY KEY (ensemble, name)
);
INSERT INTO "segments" VALUES(1,'a.jsonl',77);
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
) WITHOUT ROWID;
INSERT INTO "simulations" VALUES(1,0,'0','ac34341052287fc9','{}','',NULL,0,0,'complete',1,1,0,0,'4c0b8df751','4c0b8df751','4c0b8df751-0000',NULL,'t',NULL,'','host',NULL,100.0,2.5,1.79525607814098882679e+09,1,0,NULL,'{"x":"0"}','[{"name":"p","status":"complete","path":"ab/p/x.nc","size":12,"checksum":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}]');
INSERT INTO "simulations" VALUES(1,1,'1','013bdcb2b4d38b7d','{}','',NULL,0,0,'pending',1,1,0,0,'4c0b8df751',NULL,NULL,NULL,NULL,NULL,'','',NULL,NULL,NULL,1.79525607814300060269e+09,NULL,0,NULL,'{"x":"1"}',NULL);
INSERT INTO "simulations" VALUES(1,2,'2','17deda9ec2ab3355','{}','',NULL,0,0,'dispatched',1,1,1,0,'4c0b8df751','4c0b8df751','4c0b8df751-0000',NULL,NULL,'error','it was error','host','logs/x.log',100.0,2.5,1.79525607814199471474e+09,NULL,0,NULL,'{"x":"2"}',NULL);
INSERT INTO "simulations" VALUES(1,3,'3','1dc5026703dce350','{}','',NULL,0,0,'pending',1,1,0,0,'4c0b8df751',NULL,NULL,NULL,NULL,NULL,'','',NULL,NULL,NULL,1.79525607814300060269e+09,NULL,0,NULL,'{"x":"3"}',NULL);
INSERT INTO "simulations" VALUES(1,4,'4','5edc112eb7766a0b','{}','',NULL,0,0,'running',1,1,0,0,'4c0b8df751','4c0b8df751','4c0b8df751-0000',NULL,'t',NULL,'','host',NULL,100.0,NULL,1.79525607813998317723e+09,NULL,0,NULL,'{"x":"4"}',NULL);
INSERT INTO "simulations" VALUES(1,5,'5','8d0ec95c41242a20','{}','',NULL,0,0,'pending',1,1,0,0,'4c0b8df751',NULL,NULL,NULL,NULL,NULL,'','',NULL,NULL,NULL,1.79525607814300060269e+09,NULL,0,NULL,'{"x":"5"}',NULL);
ANALYZE "sqlite_master";
INSERT INTO "sqlite_stat1" VALUES('simulations','simulations','1000000 1000000 1');
INSERT INTO "sqlite_stat1" VALUES('simulations','simulations_id','1000000 1000000 1');
INSERT INTO "sqlite_stat1" VALUES('simulations','simulations_pending','200000 200000 50000 50000 1');
INSERT INTO "sqlite_stat1" VALUES('simulations','simulations_count','1000000 1000000 10000 2000 1500 1000 1000');
INSERT INTO "sqlite_stat1" VALUES('simulations','simulations_chunk','500000 1000 1000 200 200 200 200');
INSERT INTO "sqlite_stat1" VALUES('simulations','simulations_worker','1000 100');
INSERT INTO "sqlite_stat1" VALUES('chunks','chunks_open','100 50');
INSERT INTO "sqlite_stat1" VALUES('failed_attempts','sqlite_autoindex_failed_attempts_1','100000 100000 2 1 1');
CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    ensemble INTEGER NOT NULL,
    host TEXT NOT NULL,
    lease DOUBLE PRECISION NOT NULL,
    expires DOUBLE PRECISION NOT NULL
);
CREATE INDEX chunks_open ON chunks (batch) WHERE state = 'open';
CREATE UNIQUE INDEX simulations_id ON simulations (ensemble, id);
CREATE INDEX simulations_pending ON simulations (ensemble, tries, priority DESC, position)
    WHERE status = 'pending';
CREATE INDEX simulations_count ON simulations
    (ensemble, registered_by, status, reason, n_empty, result_generation);
CREATE INDEX simulations_chunk ON simulations
    (chunk, registered_by, status, reason, n_empty, result_generation) WHERE chunk IS NOT NULL;
CREATE INDEX simulations_worker ON simulations (worker)
    WHERE worker IS NOT NULL AND status IN ('dispatched', 'running');
COMMIT;
