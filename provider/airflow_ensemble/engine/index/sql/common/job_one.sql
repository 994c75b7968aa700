SELECT name, batch, place, folder, attempt, deadline, job_id, submitted
FROM jobs
WHERE name = :job
@for_update
