SELECT COALESCE(MAX(number) + 1, 0) FROM chunks WHERE batch = :batch
