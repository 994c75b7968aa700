AND j.batch = :batch
