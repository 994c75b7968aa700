UPDATE simulations AS s SET
    result_params = CASE
        WHEN s.result_generation IS NULL THEN NULL ELSE COALESCE(s.result_params, s.params)
    END,
    params = t.params, digest = t.digest, generation = :generation,
    status = 'pending', tries = 0, interruptions = 0, batch = NULL, chunk = NULL, worker = NULL,
    token = NULL, reason = NULL, detail = '', updated = @now
FROM stage AS t
WHERE s.ensemble = :ensemble AND s.id = t.id AND s.digest <> t.digest
    AND s.status NOT IN ('dispatched', 'running')
