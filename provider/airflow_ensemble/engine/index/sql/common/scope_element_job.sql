AND e.job = :job
