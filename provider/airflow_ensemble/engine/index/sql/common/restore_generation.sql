WITH newest AS (SELECT id, MAX(generation) AS generation FROM stage_finished GROUP BY id)
UPDATE simulations AS s SET
    generation = newest.generation, status = 'pending', tries = 0, interruptions = 0,
    batch = NULL, chunk = NULL, worker = NULL, token = NULL, reason = NULL, detail = '',
    updated = @now
FROM newest
WHERE s.ensemble = :ensemble AND s.id = newest.id AND s.generation < newest.generation
    AND s.status NOT IN ('dispatched', 'running')
