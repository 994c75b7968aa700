UPDATE jobs SET job_id = :job_id, submitted = @now WHERE name = :job AND job_id IS NULL
