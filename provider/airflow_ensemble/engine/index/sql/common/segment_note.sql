INSERT INTO segments (ensemble, name, consumed) VALUES (:ensemble, :name, :consumed)
ON CONFLICT (ensemble, name) DO UPDATE SET consumed = excluded.consumed
WHERE excluded.consumed > segments.consumed
