UPDATE simulations AS s SET
    status = 'pending', tries = 0, interruptions = 0, batch = NULL, chunk = NULL, worker = NULL,
    token = NULL, reason = NULL, detail = '', updated = @now
WHERE s.ensemble = :ensemble AND s.status = 'failed' @scope
