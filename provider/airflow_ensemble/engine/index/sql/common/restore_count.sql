SELECT COUNT(*) FROM simulations AS s
WHERE s.ensemble = :ensemble AND s.status IN ('complete', 'failed')
