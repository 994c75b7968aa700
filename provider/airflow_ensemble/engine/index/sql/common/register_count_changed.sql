SELECT COUNT(*)
FROM stage AS t JOIN simulations AS s ON s.ensemble = :ensemble AND s.id = t.id
WHERE s.digest <> t.digest
