SELECT
    j.name, j.batch, j.place, j.folder, j.attempt, j.deadline, j.job_id, j.submitted,
    e.element, e.chunk, e.submission, e.ending, e.detail
FROM elements AS e
JOIN jobs AS j ON j.name = e.job
WHERE 1 = 1 @scope
ORDER BY j.serial, e.element
