SELECT
    c.id, c.batch, c.number, c.size, c.resource_class, c.submission, c.state,
    (
        SELECT COUNT(*) FROM simulations AS s
        WHERE s.chunk = c.id AND s.status IN ('dispatched', 'running')
    )
FROM chunks AS c
WHERE c.batch = :batch
ORDER BY c.number
