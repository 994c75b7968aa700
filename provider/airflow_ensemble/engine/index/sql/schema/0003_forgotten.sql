-- Schema version 3: simulations that a person had forgotten.

-- How many attempts a forgotten simulation had. Should its id come back, it goes on counting there,
-- so that no late outcome of an old attempt is taken for one of the new simulation.
CREATE TABLE forgotten (
    ensemble INTEGER NOT NULL,
    id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    PRIMARY KEY (ensemble, id)
) @clustered;
