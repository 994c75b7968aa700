INSERT INTO failed_attempts (
    ensemble, id, attempt, token, generation, reason, detail, host, log, started, duration
)
SELECT
    s.ensemble, s.id, s.attempt, COALESCE(s.token, ''), s.generation, 'cancelled', :detail,
    s.host, s.log, COALESCE(s.started, @now), @now - COALESCE(s.started, @now)
FROM simulations AS s
WHERE s.ensemble = :ensemble AND s.status = 'running' @scope
ON CONFLICT DO NOTHING
