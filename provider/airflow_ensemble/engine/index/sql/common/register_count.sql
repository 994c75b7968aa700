SELECT s.status, s.status IN ('dispatched', 'running') AND COALESCE(s.batch, '') <> :batch, COUNT(*)
FROM stage AS t JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = t.id
GROUP BY 1, 2
