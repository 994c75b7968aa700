-- The one scope that the staged simulations belong to, if all of them are finished.
SELECT MIN(s.registered_by)
FROM stage AS t JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = t.id
HAVING MIN(s.registered_by) = MAX(s.registered_by)
    AND SUM(CASE WHEN s.status IN ('complete', 'failed') THEN 0 ELSE 1 END) = 0
