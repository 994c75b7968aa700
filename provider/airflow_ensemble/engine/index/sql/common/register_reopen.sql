UPDATE simulations AS s SET
    generation = :generation, status = 'pending', tries = 0, interruptions = 0, batch = NULL,
    chunk = NULL, worker = NULL, token = NULL, reason = NULL, detail = '', updated = @now
FROM stage AS t
WHERE s.ensemble = :ensemble AND s.id = t.id AND s.generation < :generation
    AND s.status NOT IN ('dispatched', 'running')
