WITH dealt AS MATERIALIZED (
    SELECT
        position AS place,
        :first + (ROW_NUMBER() OVER (ORDER BY priority DESC, position) - 1) % :n_chunks AS number
    FROM simulations
    WHERE ensemble = :ensemble AND registered_by = :batch AND status = 'pending'
        AND resource_class = :resource_class
)
UPDATE simulations AS s SET
    status = 'dispatched', attempt = attempt + 1, batch = :batch, chunk = c.id, worker = NULL,
    token = NULL, reason = NULL, detail = '', started = NULL, duration = NULL, host = '',
    log = NULL, updated = @now
FROM dealt, chunks AS c
WHERE s.ensemble = :ensemble AND s.position = dealt.place
    AND c.batch = :batch AND c.number = dealt.number
