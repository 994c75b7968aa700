SELECT
    e.number, e.name, e.settings_hash, b.id, b.key, b.backend, b.generation, b.created,
    NOT EXISTS (SELECT 1 FROM chunks AS o WHERE o.batch = b.id AND o.state = 'open')
FROM chunks AS c
JOIN batches AS b ON b.id = c.batch
JOIN ensembles AS e ON e.number = b.ensemble
WHERE c.id = :chunk
