UPDATE jobs SET attempt = attempt + 1, deadline = :deadline WHERE name = :job
