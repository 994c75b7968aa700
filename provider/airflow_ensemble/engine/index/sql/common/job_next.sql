SELECT COALESCE(MAX(number) + 1, 0) FROM jobs WHERE batch = :batch
