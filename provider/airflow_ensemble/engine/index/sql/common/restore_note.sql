INSERT INTO failed_attempts (
    ensemble, id, attempt, token, generation, reason, detail, host, log, started, duration
)
SELECT
    :ensemble, id, attempt, token, generation, reason, detail, host, log, started, duration
FROM stage_finished
WHERE reason IS NOT NULL
ON CONFLICT DO NOTHING
