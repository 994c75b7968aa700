-- What this registration may change, so that no claim or dispatch takes it meanwhile.
SELECT s.position
FROM stage AS t JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = t.id
WHERE s.status NOT IN ('dispatched', 'running')
ORDER BY s.position
FOR UPDATE OF s
