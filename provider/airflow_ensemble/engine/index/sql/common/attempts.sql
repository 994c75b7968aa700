SELECT id, attempt, generation, reason, detail, host, log, started, duration
FROM failed_attempts
WHERE ensemble = :ensemble AND id = :id
ORDER BY attempt, started, token
