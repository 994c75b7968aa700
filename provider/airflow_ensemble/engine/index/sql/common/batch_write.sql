INSERT INTO batches (id, ensemble, key, generation, opened, scope, created)
VALUES (:batch, :ensemble, :key, :generation, :opened, :batch, @now)
ON CONFLICT (id) DO UPDATE SET
    generation = excluded.generation, opened = excluded.opened, scope = excluded.scope
