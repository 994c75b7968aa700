-- A segment that was copied or read twice says nothing new.
DELETE FROM stage_finished WHERE n NOT IN (
    SELECT MIN(n) FROM stage_finished GROUP BY id, attempt, token, COALESCE(reason, '')
)
