SELECT b.id, b.key, b.backend, b.generation, b.created, 1 = 0
FROM batches AS b
WHERE b.ensemble = :ensemble
    AND b.id IN (SELECT c.batch FROM chunks AS c WHERE c.state = 'open')
ORDER BY b.created, b.id
