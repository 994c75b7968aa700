SELECT j.name, j.batch, j.place, j.folder, j.attempt, j.deadline, j.job_id, j.submitted
FROM jobs AS j
JOIN batches AS b ON b.id = j.batch
WHERE b.ensemble = :ensemble @scope
ORDER BY j.serial
