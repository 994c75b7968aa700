SELECT s.id, s.params, t.params, s.status, s.generation
FROM stage AS t JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = t.id
WHERE s.digest <> t.digest
ORDER BY s.status IN ('dispatched', 'running') DESC, s.generation DESC, t.n
LIMIT 1
