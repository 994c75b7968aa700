INSERT INTO batches (id, ensemble, key, generation, opened, created)
VALUES (:batch, :ensemble, :key, :generation, :opened, @now)
ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, opened = excluded.opened
