SELECT number, name, settings_hash FROM ensembles
WHERE CAST(:name AS TEXT) IS NULL OR name = :name
ORDER BY number DESC
